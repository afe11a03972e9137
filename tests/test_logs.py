"""The ways of our own lines: the descriptor, the formats, the relay to the handlers of the application."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from kit.waiting import PATIENCE
from windlass.logs.lines import Entry, Voice, printable, stamp
from windlass.logs.outlet import Outlet
from windlass.logs.relay import Relay


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A reading and a writing descriptor."""
    if request.param == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (one.detach() for one in socket.socketpair())
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drain(reader: int) -> bytes:
    parts = []
    while True:
        try:
            parts.append(os.read(reader, 1_000_000))
        except BlockingIOError:
            return b"".join(parts)


def test_a_reader_that_does_not_read_costs_lines_and_is_told_how_many(ends: tuple[int, int]) -> None:
    reader, writer = ends
    outlet = Outlet(writer)
    line = b"x" * 999 + b"\n"
    for _ in range(5_000):
        outlet.write([line])
    lost = outlet.lost
    assert lost > 0
    assert os.get_blocking(writer)  # the flag is shared with others, and is not ours to change
    got = drain(reader)
    outlet.write([b"again\n"])
    got += drain(reader)
    whole = got.split(b"\n")
    assert whole.count(line[:-1]) == 5_000 - lost
    assert f"({lost} lines were lost here: stderr could not be written to)".encode() in whole
    assert whole[-2] == b"again"
    assert outlet.lost == 0
    outlet.close()


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    os.close(reader)
    outlet.write([b"a\n", b"b\n"])
    assert outlet.lost == 2
    os.close(writer)


def test_a_descriptor_that_is_closed_is_written_to_in_vain() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    Outlet(writer).write([b"a\n"])


def test_a_file_is_appended_to_where_others_write_too(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "log")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    outlet = Outlet(fd)
    for text in (b"ours\n", b"ours again\n"):
        outlet.write([text])
        os.write(fd, b"theirs\n")
    os.close(fd)
    with open(path, "rb") as file:
        assert file.read() == b"ours\ntheirs\nours again\ntheirs\n"


def test_many_lines_reach_a_pipe_in_pieces_that_do_not_mix_with_those_of_others() -> None:
    reader, writer = os.pipe()
    outlet, sizes = Outlet(writer), []
    put = outlet.put
    outlet.put = lambda data: (sizes.append(len(data)), put(data))[1]
    outlet.write([b"x" * 99 + b"\n"] * 100)
    assert sum(sizes) == 10_000
    assert max(sizes) <= 4_096
    assert len(sizes) == 3
    os.close(reader)
    os.close(writer)


class Evil:
    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize("form", ["text", "json", "logfmt"])
def test_whatever_is_said_becomes_one_line(form: str) -> None:
    reader, writer = os.pipe()
    voice = Voice(Outlet(writer), form, logging.INFO, {"hushed": logging.ERROR})
    entries = [
        Entry(logging.INFO, 1.5, "plain %s", ("words",)),
        Entry(logging.INFO, 1.5, "evil %s", (Evil(),)),
        Entry(logging.INFO, 1.5, "wrong %d", ("x",)),
        Entry(logging.INFO, 1.5, "lone \ud800 two\nlines\x1b[31m", ()),
        Entry(logging.DEBUG, 1.5, "not shown"),
    ]
    voice.say("x", entries)
    voice.say("hushed", entries)
    text = os.read(reader, 100_000).decode()
    assert len(text.splitlines()) == 4
    assert "plain words" in text
    assert "\x1b" not in text
    assert "1970-01-01T00:00:01.500+00:00" in text
    if form == "json":
        assert [json.loads(line)["level"] for line in text.splitlines()] == ["info"] * 4
    os.close(reader)
    os.close(writer)


def test_a_traceback_is_indented_and_harmless() -> None:
    reader, writer = os.pipe()
    error = ValueError("a\n2026-01-01T00:00:00.000+00:00 INFO    1 fake\x1b]0;x\x07")
    Voice(Outlet(writer), "text", logging.INFO, {}).say("x", [Entry(logging.ERROR, 1.5, "failed", error=error)])
    first, *others = os.read(reader, 100_000).decode().splitlines()
    assert first.endswith("failed")
    assert all(line.startswith("    ") and printable(line) == line for line in others)
    os.close(reader)
    os.close(writer)


def test_stamps_of_one_moment_and_of_the_next() -> None:
    assert [stamp(at) for at in (0.0, 0.0004, 0.001, 59.9999, 60.0, 0.0)] == [
        "1970-01-01T00:00:00.000+00:00",
        "1970-01-01T00:00:00.000+00:00",
        "1970-01-01T00:00:00.001+00:00",
        "1970-01-01T00:00:59.999+00:00",
        "1970-01-01T00:01:00.000+00:00",
        "1970-01-01T00:00:00.000+00:00",
    ]


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[logging.LogRecord] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        self.gate.wait()
        self.got.append(record)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(logging, "shutdown", lambda: None)  # other tests log as well
    handler, logger = Collector(), logging.getLogger("windlass.tested")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    handler.gate.set()
    logger.removeHandler(handler)


def test_a_handler_that_hangs_costs_records_and_is_told_of(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.logs.relay.MOST", 5)
    said: list[str] = []
    relay = Relay(said.append, aloud=True)
    relay.pass_on("windlass.tested", [Entry(logging.INFO, 1.0, "first")])
    assert collector.entered.wait(PATIENCE)
    relay.pass_on("windlass.tested", [Entry(logging.INFO, 1.0, "more", (), {"job_id": "7"})] * 8)
    collector.gate.set()
    relay.close()
    assert len(collector.got) == 6
    assert vars(collector.got[-1])["job_id"] == "7"
    assert said == ["the application's log handlers are too slow: 3 records were not handed to them"]


def test_a_disabled_logger_is_heard_and_its_level_is_obeyed(collector: Collector) -> None:
    collector.gate.set()
    logging.getLogger("windlass.tested").disabled = True
    relay = Relay(lambda _: None, aloud=True)
    relay.pass_on("windlass.tested", [Entry(logging.DEBUG, 1.0, "quiet"), Entry(logging.WARNING, 1.0, "loud")])
    relay.close()
    assert [record.getMessage() for record in collector.got] == ["loud"]


def test_the_lock_of_logging_holds_nobody_up(collector: Collector) -> None:
    collector.gate.set()
    relay, held, free = Relay(lambda _: None, aloud=True), threading.Event(), threading.Event()

    def hold() -> None:
        with logging._lock:  # type: ignore[attr-defined]  # as dictConfig does while a handler connects
            held.set()
            free.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    relay.pass_on("windlass.tested", [Entry(logging.WARNING, 1.0, "said")])
    assert relay.hears("windlass.tested", logging.WARNING)
    free.set()
    holder.join()
    relay.close()
    assert [record.getMessage() for record in collector.got] == ["said"]


def test_whoever_listens_in_by_a_patch_of_logging_hears_errors_without_a_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda self, record: heard.append(record.getMessage()))
    relay = Relay(lambda _: None, aloud=True)
    relay.pass_on("windlass.tested.patched", [Entry(logging.ERROR, 1.0, "an error of %s", ("ours",))])
    relay.close()
    assert heard == ["an error of ours"]


# What steers a terminal or turns text around: C0, DEL, C1, marks of direction, separators of lines.
STEERING = "\x07\x1b\x7f\x85\x9b\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"


@pytest.mark.parametrize("form", ["text", "json", "logfmt"])
def test_no_line_steers_a_terminal_or_makes_another_line(form: str) -> None:
    reader, writer = os.pipe()
    forged = f"{STEERING}2026-01-01T00:00:00.000+00:00 INFO    1 fake"
    error = ValueError(f"a\n{forged}")
    error.add_note(forged)
    entry = Entry(logging.ERROR, 1.5, f"failed \n{forged}", fields={"reason": forged, "job_id": "x"}, error=error)
    Voice(Outlet(writer), form, logging.INFO, {}).say("x", [entry])
    text = os.read(reader, 100_000).decode()
    assert not set(text) & set(STEERING)
    first, *others = text.splitlines()
    assert all(line.startswith("    ") for line in others)
    if form == "json":
        told = json.loads(first)
        assert (told["message"], told["reason"]) == (f"failed \n{forged}", forged)
    os.close(reader)
    os.close(writer)
