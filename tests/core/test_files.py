"""Files that others may have put in our way: exports, archives, and what is read."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dead_shop import Shop
from strangers import belongs_to_a_stranger
from windlass.core.files import make_folder, open_own, open_source, replacing
from windlass.core.model import State
from windlass.core.rows import JobFilter
from windlass.core.work import LeaseRef
from windlass.errors import FileRefused, WindlassError
from windlass.worker.archive import Archive

CARD = "4111-1111"


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    made.die("late", card=CARD)
    yield made
    made.app.close()


def a_link(path: Path) -> None:
    (path.parent / "victim").write_text("precious")
    path.symlink_to("victim")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("not-there-yet")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_device(path: Path) -> None:
    path.symlink_to("/dev/null")  # what it leads to: making a device takes a privilege


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


IN_THE_WAY = [a_link, a_dangling_link, a_pipe, a_folder, a_device, a_socket]


def picture(folder: Path) -> dict[str, tuple[int, str]]:
    """What stands in a folder: kind, and content of what is a file."""
    return {
        each.name: (
            stat.S_IFMT(each.lstat().st_mode),
            each.read_text() if each.is_file() and not each.is_symlink() else "",
        )
        for each in folder.iterdir()
    }


# -- exports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", IN_THE_WAY)
def test_an_export_replaces_nothing_but_a_regular_file(shop: Shop, tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(tmp_path / "f")
    before = picture(tmp_path)
    with pytest.raises(FileRefused, match=r"it is a (symbolic link|pipe|folder|socket).*name a regular file"):
        shop.app.dead.export(tmp_path / "f", reveal=True)
    assert picture(tmp_path) == before


def test_what_is_put_there_while_an_export_is_written_stays(shop: Shop, tmp_path: Path) -> None:
    shop.die(*["late"] * 501)

    def plant(done: int, total: int) -> None:
        if done < total:
            a_link(tmp_path / "f")

    with pytest.raises(FileRefused, match="symbolic link"):
        shop.app.dead.export(tmp_path / "f", on_progress=plant)
    assert sorted(os.listdir(tmp_path)) == ["f", "victim"]
    assert (tmp_path / "victim").read_text() == "precious"


def test_an_export_writes_into_no_file_that_was_there(shop: Shop, tmp_path: Path) -> None:
    """Nor under the name that it had for its part: whoever holds that open would read along."""
    planted = tmp_path / "f.part"
    planted.write_text("")
    before = planted.stat()
    (tmp_path / "f").write_text("old")
    reader = os.open(tmp_path / "f", os.O_RDONLY)
    assert shop.app.dead.export(tmp_path / "f", reveal=True) == 1
    assert CARD in (tmp_path / "f").read_text()
    assert (os.read(reader, 1_000), planted.read_text(), planted.stat().st_ino) == (b"old", "", before.st_ino)
    os.close(reader)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600


def test_an_export_to_a_descriptor_of_this_process_goes_there(shop: Shop) -> None:
    reader, writer = os.pipe()
    assert shop.app.dead.export(f"/dev/fd/{writer}", reveal=True) == 1
    assert json.loads(os.read(reader, 65_536))["tags"] == ["money"]
    os.write(writer, b"open")  # it was not ours to close
    assert os.read(reader, 10) == b"open"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_the_command_exports_to_stdout(tmp_path: Path, out: str, to: str) -> None:
    url = f"sqlite:///{tmp_path}/w.db"
    shop = Shop(url)
    shop.die("late")
    shop.app.close()
    target = tmp_path / "out"
    target.write_text("before\n")
    command = [sys.executable, "-m", "windlass", "--url", url, "dead", "export", out]
    with target.open("ab") as appended:
        done = subprocess.run(command, stdout=appended if to == "file" else subprocess.PIPE, check=True, cwd=tmp_path)
    lines = (target.read_bytes() if to == "file" else b"before\n" + done.stdout).splitlines()
    assert lines[0] == b"before"  # what stdout led to goes on where it was
    assert [json.loads(line)["queue"] for line in lines[1:]] == ["default"]


# -- the archive -------------------------------------------------------------------------------------------


def deaths(shop: Shop) -> list[LeaseRef]:
    return [LeaseRef(row.id, row.fence) for row in shop.app.engine.jobs(JobFilter(state=State.DEAD), None, 10)[0]]


@pytest.mark.parametrize("put", IN_THE_WAY)
def test_the_archive_is_a_regular_file_or_takes_nothing(
    shop: Shop, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / "f")
    before = picture(tmp_path)
    with pytest.raises(OSError, match="name a regular file"):
        Archive(str(tmp_path / "f"), shop.app.engine).take(deaths(shop))
    assert (picture(tmp_path), shop.app.dead.count()) == (before, 1)


def test_the_archive_is_not_a_file_of_another_user(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").touch()
    belongs_to_a_stranger(tmp_path / "f", monkeypatch)
    with pytest.raises(FileRefused, match="it belongs to user"):
        Archive(str(tmp_path / "f"), shop.app.engine).take(deaths(shop))
    assert ((tmp_path / "f").read_text(), shop.app.dead.count()) == ("", 1)


def test_the_archive_is_not_a_second_name_of_another_file(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "authorized_keys").write_text("precious")
    os.link(tmp_path / "authorized_keys", tmp_path / "f")
    with pytest.raises(FileRefused, match="a hard link"):
        Archive(str(tmp_path / "f"), shop.app.engine).take(deaths(shop))
    assert (tmp_path / "authorized_keys").read_text() == "precious"


# -- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", [a_pipe, a_folder, a_device])
def test_what_is_loaded_is_a_regular_file(shop: Shop, tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(tmp_path / "f")
    with pytest.raises(OSError, match="it is a "):
        shop.app.dead.load(tmp_path / "f")  # and does not wait for somebody to write into a pipe


def test_a_link_to_an_export_is_loaded(shop: Shop, tmp_path: Path) -> None:
    shop.app.dead.export(tmp_path / "f", reveal=True)
    shop.app.dead.discard(before=0)
    (tmp_path / "link").symlink_to("f")
    assert shop.app.dead.load(tmp_path / "link") == 1


# -- opening -----------------------------------------------------------------------------------------------


def test_a_new_file_is_for_its_owner_only_and_is_told_apart_from_one_that_was_there(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    for expected in (True, False):
        fd, new = open_own(path, os.O_WRONLY | os.O_CREAT)
        assert (new, stat.S_IMODE(os.fstat(fd).st_mode), os.get_inheritable(fd)) == (expected, 0o600, False)
        os.close(fd)
    with pytest.raises(FileNotFoundError):
        open_own(str(tmp_path / "g"), os.O_WRONLY)


def test_a_refusal_is_an_error_of_ours_and_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(WindlassError) as caught:
        open_own(str(tmp_path), os.O_RDONLY)
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == str(tmp_path)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(str(tmp_path / "f")) as file:
        file.write(b"half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_opening_leaves_no_descriptor_behind_when_it_refuses(tmp_path: Path) -> None:
    a_pipe(tmp_path / "p")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with pytest.raises(FileRefused):
            open_own(str(tmp_path / "p"), os.O_RDWR)
        with pytest.raises(FileRefused):
            open_source(str(tmp_path / "p"))
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_a_folder_is_made_for_its_owner_only_and_must_be_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(FileRefused, match=f"{name}: it is no folder"):
            make_folder(str(tmp_path / name))
    for _ in range(2):
        make_folder(str(tmp_path / "made"))
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    belongs_to_a_stranger(tmp_path / "made", monkeypatch)
    with pytest.raises(FileRefused, match="belongs to user"):
        make_folder(str(tmp_path / "made"))


def test_a_measurement_does_not_work_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".bench").symlink_to("elsewhere")
    command = [sys.executable, "-m", "windlass", "bench", "--quick", "--scenario", "enqueue", "--jobs", "10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "windlass: .bench: it is no folder; move it away\n")
    assert os.listdir(tmp_path / "elsewhere") == []
