"""Jobs that die of three causes, and a store to let them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from windlass import Windlass
from windlass.worker.worker import Worker, WorkerOptions

__all__ = ["Shop", "worker_of"]


class Shop:
    """An application with one job that dies of what its argument says, until the argument is edited."""

    def __init__(self, url: str = "memory://", **settings: object) -> None:
        self.app = Windlass(url, **{"attempts": 1, "reap": "50ms", **settings})
        self.runs: list[int] = []

        @self.app.job(name="ship", retry=0, redact=["card"], tags=["money"])
        def ship(number: int, how: str = "fine", card: str = "none") -> int:
            self.runs.append(number)
            match how:
                case "late":
                    raise TimeoutError(f"parcel {number} of {card} is late")
                case "lost":
                    raise LookupError(f"parcel {number} is lost")
                case "broken":
                    try:
                        return 1 // 0
                    except ZeroDivisionError as error:
                        raise RuntimeError(f"parcel {number} is broken") from error
            return number

        self.ship = ship

    def enqueue(self, *hows: str, card: str = "none") -> list[str]:
        """Store a job for each; give their ids."""
        calls = [self.ship.bind(number, how, card) for number, how in enumerate(hows)]
        return [handle.id for handle in self.app.enqueue_many(calls)]

    def die(self, *hows: str, card: str = "none") -> list[str]:
        """Store jobs and run them to their death; give their ids."""
        ids = self.enqueue(*hows, card=card)
        self.burst()
        return ids

    def burst(self) -> None:
        """Run what is ready."""
        worker_of(self.app, burst=True).run()

    @contextmanager
    def working(self) -> Iterator[Worker]:
        """A worker that is there meanwhile, and ends in order."""
        worker = worker_of(self.app)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()
            worker.shut_down()

    def states(self, ids: Sequence[str]) -> list[str]:
        found = [self.app.get(job_id) for job_id in ids]
        return ["gone" if info is None else str(info.state) for info in found]


def worker_of(app: Windlass, *, burst: bool = False) -> Worker:
    """A worker in this process."""
    options = WorkerOptions(burst=burst, version="app 1")
    return Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options, clock=app.clock)
