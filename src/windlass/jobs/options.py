"""Each option of a job: how its value is checked, and what is said when it is wrong.

``where`` names the job, and whether its definition or a call, in every error. Raises ConfigError throughout. Must not
know jobs or calls: ``definition`` puts the values together.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from windlass.core import caps
from windlass.core.errors import ConfigError
from windlass.core.units import check_name, check_text, duration_ms, instant_ms, nearest, shown
from windlass.jobs.context import JobContext
from windlass.jobs.spec import OnStall
from windlass.logs import Log
from windlass.settings import Settings

__all__ = [
    "default_name",
    "durability",
    "durable",
    "executor",
    "instant",
    "is_method",
    "job_name",
    "length",
    "module_name",
    "on_stall",
    "priority",
    "queue",
    "redact",
    "tags",
    "takes_context",
    "texts",
    "unlifted",
    "version",
]

log = Log("windlass")


def default_name(fn: Callable[..., object]) -> str:
    """Give the name of a job that was given none: where its function stands."""
    if "<" in fn.__qualname__:  # <lambda>, f.<locals>.g
        raise ConfigError(
            f"job {fn.__module__}.{fn.__qualname__} is a lambda or stands inside a function, so no worker can tell it "
            "from others; give it a name: @app.job(name=...)"
        )
    return f"{module_name(fn)}.{fn.__qualname__}"


def module_name(fn: Callable[..., object]) -> str:
    """Give the module that a worker can import a function from."""
    if fn.__module__ != "__main__":
        return fn.__module__
    main = sys.modules["__main__"]
    found = getattr(main, "__spec__", None)
    if found is not None:  # python -m package.module
        return str(found.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if file is None or file.startswith("<"):  # -c, a prompt, a notebook; <stdin>
        log.warning(
            "job __main__.%s is not defined in a file, so no worker can import it and run what is enqueued; put it "
            "into a module that workers import",
            fn.__qualname__,
        )
        return "__main__"
    return Path(file).stem


def is_method(fn: Callable[..., object]) -> bool:
    """Whether a function takes an instance or a class first."""
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    owner = fn.__qualname__.rpartition(".")[0]
    stands_in_class = bool(owner) and not owner.endswith("<locals>")
    return stands_in_class and first is not None and first.name in ("self", "cls") and first.annotation is first.empty


def takes_context(fn: Callable[..., object]) -> bool:
    """Whether the first parameter is a JobContext, which is injected and not passed."""
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    if not isinstance(first.annotation, str):
        return first.annotation is JobContext
    head, *rest = first.annotation.strip("'\" ").split(".")
    found: object = inspect.unwrap(fn).__globals__.get(head)
    for part in rest:
        found = getattr(found, part, None)
    # Imported under TYPE_CHECKING only, it has no value to compare, but its name says enough.
    return found is JobContext or (found is None and [head, *rest][-1] == "JobContext")


def job_name(value: object, where: str) -> str:
    """Check a name or an alias."""
    if isinstance(value, str) and 1 <= len(value) <= caps.JOB_NAME and value.isprintable() and value.strip() == value:
        return value
    raise ConfigError(f"{where}: {value!r:.80} is not a job name; use 1 to {caps.JOB_NAME} printable characters")


def priority(value: object, where: str) -> int:
    """Check a priority."""
    if isinstance(value, int) and not isinstance(value, bool) and -caps.PRIORITY <= value <= caps.PRIORITY:
        return value
    raise ConfigError(
        f"{where}: priority is {shown(value)}; use an int from -{caps.PRIORITY} (first) to {caps.PRIORITY} (last)"
    )


def length(value: object, name: str, least: int = 1) -> int | None:
    """Give a length of time in ms; None for none."""
    if value is None:
        return None
    ms = duration_ms(value, name)
    if ms < least:
        raise ConfigError(f"{name} is {value!r}; it must be longer than zero, or None for none")
    return ms


def unlifted(ms: int | None, defined_ms: int | None, key: str, where: str) -> int | None:
    """Refuse to lift at a call what the definition says."""
    # A stored job says nothing where the definition counts, so it has no way to say "none".
    if ms is None and defined_ms is not None:
        raise ConfigError(f"{where}: {key}=None cannot remove the {key} of the definition; give a longer one")
    return ms


def queue(value: object, where: str, settings: Settings) -> str:
    """Check the name of a queue."""
    queue = check_name(value, f"{where}: queue")
    if settings.strict_queues and queue not in settings.queues:
        known = sorted(settings.queues)
        raise ConfigError(
            f"{where}: queue {queue!r} is not in the settings{nearest(queue, known)}; strict_queues allows "
            f"{', '.join(known) or 'none'}: add it under [windlass.queues]"
        )
    return queue


def executor(value: object, is_async: bool, where: str) -> Literal["thread", "process"] | None:
    """Check an executor."""
    match value:
        case None | "process":
            return value
        case "thread" if is_async:
            raise ConfigError(f"{where}: an async job runs on the event loop; leave executor out, or use 'process'")
        case "thread":
            return value
        case _:
            hint = nearest(str(value), ("thread", "process"))
            raise ConfigError(f"{where}: executor is {value!r}{hint}; use 'thread' or 'process'")


def on_stall(value: object, where: str, stall_ms: int | None) -> OnStall:
    """Check what is done about a job that stalls. ``stall_ms`` says whether anybody looks for that."""
    match value:
        case "alert" | "retry" | "cancel":
            if stall_ms is None:
                raise ConfigError(f"{where}: on_stall={value!r} without a stall_after, so nothing would ever follow")
            return value
        case _:
            hint = nearest(str(value), ("alert", "retry", "cancel"))
            raise ConfigError(f"{where}: on_stall is {shown(value)}{hint}; use 'alert', 'retry' or 'cancel'")


def durability(value: object, where: str) -> Literal["fsync", "normal"] | None:
    """Check a durability."""
    match value:
        case None | "fsync" | "normal":
            return value
        case _:
            hint = nearest(str(value), ("fsync", "normal"))
            raise ConfigError(f"{where}: durability is {value!r}{hint}; use 'fsync' or 'normal'")


def durable(durability: str | None) -> bool | None:
    """Give what a NewJob says of durability."""
    return None if durability is None else durability == "fsync"


def texts(value: object, what: str) -> list[str]:
    """Check a list of texts."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{what} is {value!r}; give a list of texts")
    texts = list(value)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"{what} holds {text!r}; give a list of texts")
    return texts


def tags(value: object, where: str) -> tuple[str, ...]:
    """Check tags."""
    tags = dict.fromkeys(texts(value, f"{where}: tags"))
    if len(tags) > caps.TAGS:
        raise ConfigError(
            f"{where}: a job has {len(tags):,} tags; give at most {caps.TAGS}, and put the rest in arguments"
        )
    return tuple(check_text(tag, f"{where}: a tag") for tag in tags)


def redact(value: object, fn: Callable[..., object], takes_context: bool, where: str) -> tuple[str, ...]:
    """Check the names of redacted parameters."""
    names = list(inspect.signature(fn).parameters)[takes_context:]
    redact = tuple(dict.fromkeys(texts(value, f"{where}: redact")))
    for name in redact:
        if name not in names and name != "return":
            raise ConfigError(
                f"{where}: redact names {name!r}, which is not a parameter{nearest(name, [*names, 'return'])}; "
                "'return' is the result"
            )
    return redact


def version(value: object, where: str) -> str | None:
    """Check a version."""
    return None if value is None else check_text(value, f"{where}: version")


def instant(value: object, where: str) -> int:
    """Give an aware datetime in ms."""
    if not isinstance(value, datetime):
        raise ConfigError(f"{where}: at is {value!r}; give an aware datetime, or use delay=")
    return instant_ms(value, f"{where}: at")
