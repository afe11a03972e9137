"""The jobs of the stores that an older windlass wrote, and a picture of what is in such a store.

Written against what every version has in public, because both the version that made the stores and the present one run
it. Every job notes that it ran, under the label that it was enqueued with.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any, Final

from windlass import Concurrency, Job, Once, Rate, Unique, Windlass

KEEP: Final = "3650d"
DOCUMENTS: Final = ("old:forever", "old:long", "old:over", "old:never")


class Shop:
    """The jobs of one application. ``ran`` has the labels of the runs, in their order."""

    def __init__(self, app: Windlass) -> None:
        self.app = app
        self.ran: list[str] = []
        app.circuit("stripe")
        app.circuit("mail")
        app.circuit("sms")
        app.circuit("post")
        self.note = self._job("note")

        async def apart(label: str) -> str:
            self.ran.append(label)
            return f"apart {label}"

        self.apart = app.job(name="apart", keep=KEEP)(apart)
        self.once = self._job("once", once=Once("{key}", keep=KEEP))
        self.pay = self._job("pay", circuit="stripe")
        self.mail = self._job("mail", circuit="mail")
        self.single = self._job("single", limits=[Concurrency(1, key="{key}")])
        self.seldom = self._job("seldom", limits=[Rate("1/h", key="{key}")])
        self.spaced = self._job("spaced", limits=[Rate("2/h", key="{key}", burst=1)])
        self.start = self._job("start", unique=Unique("{key}", until="start"))
        self.done = self._job("done", unique=Unique("{key}", on_conflict="replace"))
        self.expiry = self._job("expiry", unique=Unique("{key}", until="expiry", ttl=KEEP))
        self.latest = self._job("latest", unique=Unique("{key}", on_conflict="keep_latest"))
        self.laden = self._job(
            "laden",
            once=Once("laden {key}", keep=KEEP), unique=Unique("laden {key}", on_conflict="raise"), circuit="sms",
            limits=[Concurrency(3, key="laden"), Rate("1000/h", key="laden"), Rate("1000/m", key="smooth", burst=9)],
        )  # fmt: skip

    def _job(self, name: str, **guards: Any) -> Job[[str, str], str]:
        def run(label: str, key: str = "") -> str:
            self.ran.append(label)
            return f"{name} {label}"

        return self.app.job(name=name, keep=KEEP, **guards)(run)  # type: ignore[no-any-return]


def picture(app: Windlass) -> dict[str, Any]:
    """What people are told of a store, as plain JSON values."""
    jobs: dict[str, Any] = {}
    page = app.jobs(limit=1_000)
    for job in page:
        jobs[job.id] = shown(job)
    stats = app.stats()
    figures = shown(stats.queues)
    for one in figures.values():
        del one["arrival"], one["drain"]  # of the last minute, and so of who counted it
    return {
        "jobs": jobs,
        "counts": dict(stats),
        "figures": figures,
        "queues": {queue.name: shown(queue) for queue in app.queues()},
        "groups": [shown(group) for group in app.dead.groups()],
        "circuits": [shown(one) for one in app.circuit_states()],
        "locks": [shown(one) for one in app.locks()],
        "limits": [shown(one) for one in app.limits()],
        "workers": [shown(one) for one in app.workers()],
        "documents": {one.key: one.value for one in app.engine.read(DOCUMENTS)},
    }


def shown(value: Any) -> Any:
    """A value as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: shown(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):
        return {name: shown(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {str(key): shown(one) for key, one in value.items()}
    return str(value) if isinstance(value, str) else value
