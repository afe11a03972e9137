"""How the slots of one ``windlass worker`` are laid out: pools in processes.

A pool is slots that serve a set of queues. Pools without processes of their own share the common processes, side by
side in each; one with ``processes`` has those to itself. What the command line says replaces the pools of the settings.

Pure: it reads settings and options and starts nothing. Invariants: every crew has a slot, and every error names the
option, or the line of the settings file, that is to blame.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from windlass.core import caps
from windlass.core.errors import ConfigError
from windlass.core.patterns import check_pattern, matches, overlap, parse_queues
from windlass.core.units import nearest, shown, whole_number
from windlass.settings import PoolSettings, Settings
from windlass.worker.queues import QueuePolicy

__all__ = ["Crew", "PoolPlan", "alone_plan", "check_layout", "lay_out", "serves"]


class PoolPlan(Struct, frozen=True):
    """One pool as it stands in each of its processes."""

    name: str
    queues: tuple[str, ...]  # as -q takes them; empty: every queue
    threads: int
    async_slots: int
    strict: bool = False
    without: tuple[str, ...] = ()  # queues that are paused in the settings

    def policy(self) -> QueuePolicy:
        """Which queues it serves, and how."""
        return QueuePolicy.parse(self.queues, strict=self.strict, without=self.without)


class Crew(Struct, frozen=True):
    """Processes that are alike."""

    name: str
    processes: int
    pools: tuple[PoolPlan, ...]

    @property
    def slots(self) -> int:
        """The slots of each process."""
        return sum(pool.threads + pool.async_slots for pool in self.pools)

    def __str__(self) -> str:
        pools = ", ".join(f"{','.join(pool.queues) or '*'}: {pool.threads}" for pool in self.pools)
        return f"{self.name} {pools}" + (f" (in each of {self.processes} processes)" if self.processes > 1 else "")


def check_layout(queues: Sequence[str], strict: bool, pools: Sequence[str]) -> None:
    """Check what the command line says of queues and pools, as far as that goes without settings."""
    QueuePolicy.parse(queues, strict=strict)
    seen: dict[str, str] = {}
    for text in pools:
        names, count = split_pool(text)
        if count is None:
            continue
        for name in parse_queues([names]):
            rival = next((other for other in seen if "*" not in (name, other) and overlap(name, other)), None)
            if rival is not None:
                raise ConfigError(
                    f"--pool {text!r}: queue {name!r} is served by --pool {seen[rival]!r} too; slots are dedicated "
                    "to one pool: name the queue in one of them"
                )
            seen[name] = text


def lay_out(settings: Settings, queues: Sequence[str], strict: bool, pools: Sequence[str]) -> tuple[Crew, ...]:
    """Give the crews that the options (``-q``, ``--strict``, ``--pool``) and the settings ask for."""
    check_layout(queues, strict, pools)
    paused = tuple(name for name, queue in settings.queues.items() if queue.paused is not None)
    common: list[PoolPlan] = []
    crews: list[Crew] = []

    def add(name: str, pool: PoolSettings) -> None:
        plan = PoolPlan(
            name,
            pool.queues,
            settings.threads if pool.threads is None else pool.threads,
            settings.async_slots if pool.async_slots is None else pool.async_slots,
            pool.strict,
            paused,
        )
        if pool.processes:
            crews.append(Crew(name, pool.processes, (plan,)))
        else:
            common.append(plan)

    for text in pools:
        names, count = split_pool(text)
        if count is not None:
            add(names, PoolSettings(queues=(names,), threads=count, async_slots=count))
        elif names in settings.pools:
            add(names, settings.pools[names])
        else:
            raise ConfigError(
                f"--pool {text!r}: the settings have no such pool{nearest(names, settings.pools)}; "
                f"for slots of a queue say how many, as in --pool '{names}:2'"
            )
    if not pools and not queues:
        for name, pool in settings.pools.items():
            add(name, pool)
    if queues or not (common or crews):
        common.insert(0, PoolPlan("common", tuple(queues), settings.threads, settings.async_slots, strict, paused))
    if settings.strict_queues:
        check_known(settings, [*common, *(pool for crew in crews for pool in crew.pools)])
    if common:
        crews.insert(0, Crew("common", settings.processes, tuple(common)))
    return tuple(crews)


def alone_plan(crews: Sequence[Crew]) -> PoolPlan:
    """The pool of the process where a job that killed others runs by itself: one slot, for every queue of the crews."""
    pools = [pool for crew in crews for pool in crew.pools]
    queues = dict.fromkeys(name for pool in pools for name in parse_queues(pool.queues or ["*"]))
    return PoolPlan("alone", ("*",) if "*" in queues else tuple(queues), 1, 1, without=pools[0].without)


def check_known(settings: Settings, pools: Sequence[PoolPlan]) -> None:
    for pool in pools:
        for queue in parse_queues(pool.queues) if pool.queues else ():
            if not any(overlap(queue, known) for known in settings.queues):
                raise ConfigError(
                    f"queue {queue!r} is not in the settings{nearest(queue, settings.queues)}; strict_queues allows "
                    f"{', '.join(sorted(settings.queues)) or 'none'}: add it under [windlass.queues]"
                )


def split_pool(text: str) -> tuple[str, int | None]:
    """Read ``critical:2``; without a number it is the name of a pool in the settings."""
    names, colon, count = text.rpartition(":")
    if not colon or not (count.isascii() and count.isdigit()):
        check_pattern(text, "--pool")
        return text, None
    parse_queues([names])
    slots = whole_number(count, caps.SLOTS)
    if not slots:
        raise ConfigError(f"--pool {shown(text)} has no slots: give it 1 to {caps.SLOTS:,}, as in --pool '{names}:2'")
    return names, slots


def serves(crews: Sequence[Crew], queue: str) -> bool:
    """Whether some pool serves a queue."""
    return any(
        queue not in pool.without and matches(parse_queues(pool.queues or ["*"]), queue)
        for crew in crews
        for pool in crew.pools
    )
