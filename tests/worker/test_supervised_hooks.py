"""Hooks of jobs that nobody in a worker process ended: their end came from the supervisor."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.fleet import Fleet
from windlass import Windlass

MODULE = """
import os, signal, time
from windlass import Constant, JobInfo, Retry, Windlass
from windlass.events import JobDead, WorkerCrashed

app = Windlass("sqlite:///jobs.db", max_crashes=1, lease=5, renew=1, shutdown_timeout=5)

@app.job(name="kill", retry=5)
def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@app.job(name="stuck", timeout="100ms", retry=Retry(attempts=2, backoff=Constant("1h")))
def stuck() -> None:
    time.sleep(60)

@app.job(name="hang", executor="process", timeout="300ms", retry=Retry(within="2m", backoff=Constant("1m")))
def hang() -> None:
    time.sleep(60)

def tell(what):
    def hook(info: JobInfo) -> None:
        with open("told", "w") as pipe:
            pipe.write(f'["{what}", "{info.name}", "{info.state}", "{info.reason}", "{info.errors[-1].type}"]\\n')
    return hook

@app.on(JobDead)
def died(event: JobDead) -> None:
    with open("events", "a") as file:
        file.write(f"JobDead {event.name} {event.attempt} {event.reason}\\n")

@app.on(WorkerCrashed)
def crashed(event: WorkerCrashed) -> None:
    with open("events", "a") as file:
        file.write(f"WorkerCrashed {event.cause}\\n")

app.on_dead(tell("dead"))
app.on_retry(tell("retry"))
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / ".git").mkdir()  # no settings file above this folder counts
    with Fleet(tmp_path, f"sqlite:///{tmp_path}/jobs.db", "hooked_shop") as made:
        yield made


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ("kill", ["dead", "kill", "dead", "poison", "WorkerCrashed"]),
        ("hang", ["retry", "hang", "scheduled", "None", "windlass.errors.JobTimeout"]),
        ("stuck", ["retry", "stuck", "scheduled", "None", "windlass.errors.JobTimeout"]),
    ],
)
def test_a_job_that_outlived_its_process_calls_its_hooks(
    fleet: Fleet, tmp_path: Path, job: str, told: list[str]
) -> None:
    (tmp_path / "hooked_shop.py").write_text(MODULE)
    os.mkfifo(tmp_path / "told")
    pipe = os.open(tmp_path / "told", os.O_RDWR)  # open at both ends: neither side waits for the other
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:

        @app.job(name=job)
        def stand_in() -> None: ...

        stand_in.enqueue()
    fleet.start()
    fleet.until(lambda: select.select([pipe], [], [], 0)[0], "a hook to be called")
    assert json.loads(os.read(pipe, 4096)) == told
    os.close(pipe)


def test_a_job_that_its_process_took_along_is_an_event_and_so_is_the_death_of_the_process(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "hooked_shop.py").write_text(MODULE.replace('open("told", "w")', 'open("told", "a")'))
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:

        @app.job(name="kill")
        def stand_in() -> None: ...

        stand_in.enqueue()
    fleet.start()
    fleet.until((tmp_path / "told").exists, "the hook, which is called after the event of the job")
    events = tmp_path / "events"
    fleet.until(lambda: len(events.read_text().splitlines()) == 2, "the event of the process")
    assert sorted(events.read_text().splitlines()) == ["JobDead kill 0 poison", "WorkerCrashed was killed by SIGKILL"]
