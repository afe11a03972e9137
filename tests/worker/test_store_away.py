"""A worker that is told to stop ends, also when its store is away: what it could not tell, the leases do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from servers import RedisServer
from windlass import Windlass

DEADLINE = 30.0
APP = """
import time
from windlass import Windlass

app = Windlass(network_timeout="1s")


@app.job(name="hold")
def hold() -> None:
    time.sleep(60)
"""


@contextmanager
def worker(folder: Path, url: str, *args: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A worker, and the file of its log; killed at the end with all its processes."""
    (folder / "jobs.py").write_text(APP)
    log = folder / "log"
    with log.open("w") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "windlass", "worker", "-A", "jobs:app", *args],
            cwd=folder,
            env={**os.environ, "WINDLASS_URL": url},
            stderr=file,
            text=True,
            start_new_session=True,
        )
    try:
        yield started, log
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def wait_for(log: Path, text: str) -> None:
    ends = time.monotonic() + DEADLINE
    while text not in log.read_text():
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.02)


def test_a_worker_that_never_reached_its_store_stops_when_it_is_told_to(tmp_path: Path) -> None:
    with closing(RedisServer()) as server:
        url = server.url
    with worker(tmp_path, url) as (started, log):
        wait_for(log, "the engine is away")
        started.send_signal(signal.SIGTERM)
        assert started.wait(DEADLINE / 2) == 0  # well before the grace of 25 s


@pytest.mark.parametrize(("signals", "code"), [((signal.SIGTERM,), 0), ((signal.SIGTERM, signal.SIGTERM), 143)])
def test_a_worker_whose_store_has_gone_ends_after_its_grace_or_at_a_second_signal(
    tmp_path: Path, signals: tuple[signal.Signals, ...], code: int
) -> None:
    grace = "1s" if len(signals) == 1 else "10m"
    with closing(RedisServer()) as server, worker(tmp_path, server.url, "-t", grace) as (started, log):
        with Windlass(server.url) as app:
            job = app.job(name="hold")(lambda: None).enqueue()
            ends = time.monotonic() + DEADLINE
            while job.state != "running":
                assert time.monotonic() < ends, log.read_text()
                time.sleep(0.02)
        server.close()
        for number in signals:
            started.send_signal(number)
            wait_for(log, "stopping: ")
        assert started.wait(DEADLINE) == code
        wait_for(log, "learns so when the leases end")
