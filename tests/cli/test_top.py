"""``windlass top`` on a real terminal: it fits the window, obeys keys and signals, and restores the terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_shop import Shop
from terminal import Terminal

from windlass.core.model import NewJob
from windlass.core.work import WorkerInfo
from windlass.testing.conformance.harness import place

LONG = "shop.jobs.international.charge_a_customer_with_a_very_long_name_indeed"


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
