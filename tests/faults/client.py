"""A client process that may be told to die at any engine call; run again, it must come to the same end.

``python -m faults.client``. Every id is written to ``tried.log`` before its enqueue and to ``acked.log`` after it. Ids
are fixed, as a caller would choose them to repeat an enqueue whose answer got lost. Calls that no worker makes by
themselves (``claim``, ``settle``) are made here by a worker of three lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import SimpleNamespace

from faults import jobs
from windlass import Windlass
from windlass.core.ids import new_id
from windlass.core.model import Swap, Write
from windlass.core.work import Kind, Outcome, QueueShare, Want, WorkerInfo
from windlass.engines.base import TransactionalCommit

LEASE_MS = 1_000
STEPS = 4


def tell(name: str, ids: Iterable[str]) -> None:
    """Append whole lines to a file of the fleet."""
    fd = os.open(f"{jobs.folder()}/{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, "".join(f"{one}\n" for one in ids).encode())
    os.close(fd)


def main() -> None:
    app = Windlass()
    defined = jobs.install(app)

    plain = [f"plain-{n}" for n in range(5)]
    tell("tried", plain)
    app.enqueue_many([defined.pay.options(id=one).bind(1) for one in plain])
    tell("acked", plain)

    tell("tried", ["unwanted"])
    defined.pay.options(id="unwanted", delay="1h").enqueue(1)
    app.cancel(["unwanted"])

    if isinstance(app.engine, TransactionalCommit):
        tell("tried", ["within"])
        with app.transaction() as tx:
            tx.execute("INSERT OR IGNORE INTO orders VALUES ('within')")
            defined.pay.options(id="within", connection=tx).enqueue(1)
        tell("acked", ["within"])

    move_cursor(app, defined)
    work_by_hand(app, defined)
    app.close()


def move_cursor(app: Windlass, defined: SimpleNamespace) -> None:
    """Store a job for each step of a cursor, both in one write: where the one is, the other must be."""
    ids = [f"step-{n}" for n in range(STEPS)]
    tell("tried", ids)
    while True:
        (cursor,) = app.engine.read(["cursor"])
        step = int(cursor.value or 0)
        if step == STEPS:
            break
        new = defined.pay.options(id=ids[step]).bind(1).new
        written = app.engine.commit(Write((new,), (Swap("cursor", cursor.version, str(step + 1)),)))
        assert not written.lost
        assert not written.placed[0].duplicate, "the job was there and the cursor had not moved"
    tell("acked", ids)


def work_by_hand(app: Windlass, defined: SimpleNamespace) -> None:
    """Claim and settle without a pump. What is not settled comes back when the lease is over."""
    tell("tried", ["hand"])
    defined.pay.options(id="hand", queue="hand").enqueue(1)
    tell("acked", ["hand"])
    engine = app.engine
    info = WorkerInfo(new_id(), new_id(), "here", os.getpid(), "hand", 1, "", app.clock.wall_ms())
    engine.extend(info, (), LEASE_MS)
    claimed = engine.claim(Want(info.id, 1, (QueueShare("hand", 1),)))
    for lease in claimed.leases:
        jobs.write("S", lease)
        jobs.effect(lease.id, lease.fence)
        jobs.write("E", lease)
    engine.settle([Outcome(lease.id, lease.fence, Kind.DONE, "null") for lease in claimed.leases])
    engine.depart(info.id)


if __name__ == "__main__":
    main()
