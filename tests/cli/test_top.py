"""``windlass top`` on a real terminal: it fits the window, obeys keys and signals, and restores the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_shop import Shop

from kit.waiting import PATIENCE, until
from windlass.core.model import NewJob
from windlass.core.work import WorkerInfo
from windlass.testing.conformance.harness import place

LONG = "shop.jobs.international.charge_a_customer_with_a_very_long_name_indeed"
HOME = b"\x1b[H"
MODES = {25: "h", 7: "h", 1049: "l"}  # cursor, wrapping, alternate screen: how they are left
ESCAPE = re.compile(r"\x1b\[[?0-9]*[a-zA-Z]")

# As a shell runs a program: in a process group of its own, in the foreground, told when it stops.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "windlass.cli.main", *sys.argv[1:]])
print(pid, file=sys.stderr, flush=True)
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        print("stopped", file=sys.stderr, flush=True)
    else:
        os.tcsetpgrp(0, os.getpid())
        print(os.waitstatus_to_exitcode(status), file=sys.stderr, flush=True)
        break
"""


class Terminal:
    """``windlass top`` on a terminal of its own."""

    def __init__(self, shop: Shop, columns: int = 80, rows: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.modes = termios.tcgetattr(self.slave)
        self.seen = b""
        self.shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, "top", "--every", "100ms", "--url", shop.url],
            cwd=shop.folder,
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=0,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        self.pid = int(self.told())

    def told(self) -> str:
        """The next line that the shell says."""
        assert self.shell.stderr is not None
        assert select.select([self.shell.stderr], [], [], PATIENCE)[0], self.seen[-3_000:].decode()
        return self.shell.stderr.readline().strip()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        while select.select([self.master], [], [], 0.01)[0]:
            self.seen += os.read(self.master, 65_536)

    def frame(self) -> list[str] | None:
        """The last picture that is whole, as lines."""
        frames = self.seen.split(HOME)
        text = "" if len(frames) < 3 else frames[-2].decode()
        return [ESCAPE.sub("", line) for line in re.split("\r*\n", text)] if text else None

    def until(self, look: Callable[[], object]) -> None:
        until(lambda: self.read() or look(), said=lambda: self.seen[-3_000:].decode())

    def frames_from_now(self) -> None:
        """Wait for a picture that begins after this moment."""
        self.read()
        self.seen = b""
        self.until(self.frame)

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def has_keys(self) -> bool:
        """Whether keys come without Enter."""
        local = termios.tcgetattr(self.slave)[3]
        assert isinstance(local, int)
        return not local & termios.ICANON

    def restored(self) -> bool:
        """Whether modes, cursor, wrapping and screen are as they were."""
        self.read()
        last = {mode: max("hl", key=lambda to, m=mode: self.seen.rfind(f"\x1b[?{m}{to}".encode())) for mode in MODES}
        return termios.tcgetattr(self.slave) == self.modes and last == MODES

    def close(self) -> None:
        if self.shell.poll() is None:
            self.shell.kill()  # a terminal without its shell hangs up on the rest
        self.shell.wait(PATIENCE)
        assert self.shell.stderr is not None
        self.shell.stderr.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(shop: Shop) -> Iterator[Terminal]:
    with shop.store() as app:
        app.engine.extend(WorkerInfo("w1", "g", "a-host-with-a-long-name" * 4, 17, "*", 4, "1", 0), [], 600_000)
        queues = [f"payments.{'x' * 100}", *(f"q{n}" for n in range(40))]
        place(app.engine, [NewJob(f"{n:0>36}", LONG, queue, "[1,[],{}]") for n, queue in enumerate(queues)])
    with shop.claimed(limit=len(queues)):
        made = Terminal(shop)
        try:
            made.until(made.frame)
            yield made
        finally:
            made.close()


def fits(terminal: Terminal, columns: int, rows: int) -> bool:
    frame = terminal.frame()
    return frame is not None and len(frame) <= rows and all(len(line) <= columns for line in frame)


def test_every_line_fits_the_window_and_a_resize_is_followed(terminal: Terminal) -> None:
    assert fits(terminal, 80, 24)
    frame = terminal.frame()
    assert frame is not None
    assert any(line.startswith("payments.xx") and "…" in line for line in frame)
    assert any("shop.jobs" in line and "…" in line for line in frame)
    assert any("more queues" in line for line in frame)
    for columns, rows in ((40, 10), (20, 3), (132, 50)):
        terminal.resize(columns, rows)
        terminal.frames_from_now()
        assert fits(terminal, columns, rows)
    widest = max(len(line) for line in terminal.frame() or [])
    assert widest > 80
    terminal.resize(1, 1)
    terminal.frames_from_now()
    terminal.press("q")
    assert terminal.told() == "0"


@pytest.mark.parametrize(("key", "code"), [("q", "0"), ("Q", "0"), ("\x03", "0"), ("\x1c", str(-signal.SIGQUIT))])
def test_a_key_quits_and_the_terminal_is_as_it_was(terminal: Terminal, key: str, code: str) -> None:
    assert terminal.has_keys()
    terminal.press("x")
    terminal.frames_from_now()
    terminal.press(key)
    assert terminal.told() == code
    assert terminal.restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(terminal: Terminal, number: signal.Signals) -> None:
    os.kill(terminal.pid, number)
    assert terminal.told() == str(-number)
    assert terminal.restored()


def test_it_is_suspended_and_goes_on(terminal: Terminal) -> None:
    for _ in range(2):
        terminal.press("\x1a")
        assert terminal.told() == "stopped"
        assert terminal.restored()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.frames_from_now()
        assert terminal.has_keys()
    terminal.press("q")
    assert terminal.told() == "0"
    assert terminal.restored()


def test_without_a_terminal_it_prints_one_snapshot_and_ends(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    text = shop.run("top").stdout
    assert "\x1b" not in text
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("payments")] == [["payments", "1"]]


def test_as_json_it_is_one_value(shop: Shop, tmp_path: Path) -> None:
    found = shop.json("top")
    assert isinstance(found, dict)
    assert found["queues"] == []
