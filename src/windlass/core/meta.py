"""Facts of one job that its call brought along; engines keep them and do not read them."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from windlass.core.errors import PayloadError
from windlass.core.hints import encode
from windlass.core.values import check_depth

__all__ = ["Meta", "Ref", "StepFacts", "decode_meta", "encode_meta"]


class Ref(Struct, frozen=True, array_like=True):
    """An argument that is the result of another job, known when the job runs.

    ``at`` is its position or its name. ``job`` is the id of the other; a duplicate stands for it where ``join``, whose
    only member it is, has another one. ``path`` leads to a part of the result. Where it is ``optional``, a job that has
    no result gives None.
    """

    at: int | str
    job: str
    join: str
    path: tuple[int | str, ...] = ()
    optional: bool = False


class StepFacts(Struct, frozen=True, array_like=True):
    """A job as a step of a workflow: its name there, its place, and what it waits for.

    ``parent`` is the step that made it while it ran: by expanding a result, or to undo others. ``sub`` is the workflow
    that it runs.
    """

    workflow: str
    name: str
    number: int = 0
    after: tuple[str, ...] = ()
    when: str = "succeeded"
    parent: str = ""
    sub: str = ""


class Meta(Struct, frozen=True, omit_defaults=True):
    """What a call said for itself. ``backoff`` is JSON text, made and read by ``retry``.

    ``within_ms`` goes with ``backoff``: a call that brought its own policy brought both. ``capped`` says that the call
    itself named the attempts, so no rule goes beyond them. ``batches`` are the ids of those that it was added to.
    ``stall_ms`` is how long its runs may go on without progress, and ``on_stall`` what follows then: "alert", "retry",
    "cancel", or what only a newer version knows.
    """

    timeout_ms: int | None = None
    keep_ms: int | None = None
    redact: tuple[str, ...] = ()
    backoff: str | None = None
    version: str | None = None
    within_ms: int | None = None
    capped: bool = False
    refs: tuple[Ref, ...] = ()
    batches: tuple[str, ...] = ()
    step: StepFacts | None = None
    stall_ms: int | None = None
    on_stall: str | None = None


_META: Final = msgspec.json.Decoder(Meta)
_NO_META: Final = Meta()


def encode_meta(meta: Meta) -> str | None:
    """Give the facts as JSON text, or None when all are defaults, which costs the store nothing."""
    return None if meta == _NO_META else encode(meta).decode()


def decode_meta(raw: bytes | None) -> Meta:
    """Give the facts back; fields of a newer version are ignored. Raises PayloadError."""
    if raw is None:
        return _NO_META
    check_depth(raw)
    try:
        return _META.decode(raw)
    except Exception as error:
        raise PayloadError(f"the facts of a job cannot be decoded: {error}") from error
