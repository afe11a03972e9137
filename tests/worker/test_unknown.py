"""A job that one worker does not know waits no longer than it has waited before: another may know it."""

from __future__ import annotations

from pathlib import Path

from kit.waiting import PATIENCE
from windlass import State, Windlass
from windlass.core.clock import ManualClock
from windlass.worker.worker import Worker, WorkerOptions


def burst(app: Windlass) -> None:
    """Run what is ready, in this process."""
    options = WorkerOptions(burst=True)
    Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options, clock=app.clock).run()


def test_it_is_put_back_for_a_second_and_then_for_as_long_as_it_has_been_unknown(tmp_path: Path) -> None:
    clock = ManualClock()
    url = f"sqlite:///{tmp_path}/jobs.db"
    with Windlass(url, clock=clock) as old, Windlass(url, clock=clock) as new:
        double = new.job(name="double")(lambda n: 2 * n)
        handle = double.enqueue(4)
        waits = []
        for _ in range(8):
            burst(old)
            info = handle.info()
            assert (info.state, info.attempt) == (State.SCHEDULED, 0)
            waits.append(round(info.run_at.timestamp() * 1_000) - clock.wall_ms())
            clock.advance(waits[-1])
        assert waits == [1_000, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
        burst(new)
        assert handle.result(timeout=PATIENCE) == 8
