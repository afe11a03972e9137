"""Arguments that are results of other jobs: they are read when the run begins, and put into its payload.

The payload stays JSON all the way, so the result comes typed by the parameter that takes it. The record of the other
job is kept by the join whose member it is. *Blocking.*
"""

from __future__ import annotations

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from windlass.core.codec import fill
from windlass.core.errors import ResultExpired, ResultNotStored
from windlass.core.meta import Ref
from windlass.core.model import RESULT_NOT_STORED, State
from windlass.core.rows import JobRow
from windlass.engines.base import Inspector
from windlass.worker.attempt.run import JobRun

__all__ = ["fill_in"]

decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
decode_array = msgspec.json.Decoder(list[Raw]).decode


def fill_in(run: JobRun) -> None:
    """Put the results that a run refers to into its payload.

    Raises ResultNotStored, ResultExpired or PayloadError when one cannot be had, now or ever, and EngineError when the
    store cannot be asked.
    """
    engine = run.host.engine
    values = [(ref.at, part_of(result_of(ref, engine), ref)) for ref in run.meta.refs]
    run.lease = replace(run.lease, payload=fill(run.lease.payload, values))


def result_of(ref: Ref, engine: Inspector) -> bytes:
    """The result of the job that a reference names, as JSON; null where it may have none."""
    row = row_of(ref, engine)
    if ref.optional and (row is None or row.state is not State.DONE):
        return b"null"
    if row is None:
        raise ResultExpired(f"no record of job {ref.job} is kept, whose result this job takes as {ref.at!r}", ref.job)
    if row.state is not State.DONE:
        raise ResultNotStored(
            f"job {row.id} ({row.name}) is {row.state}, so it has no result, which this job takes as {ref.at!r}; "
            "retry that job first",
            row.id,
        )
    if row.reason is not None and row.reason.startswith(RESULT_NOT_STORED):
        raise ResultNotStored(
            f"job {row.id} ({row.name}) is done, and this job takes its result as {ref.at!r}, but: {row.reason}", row.id
        )
    return row.result if row.result is not None else b"null"


def part_of(result: bytes, ref: Ref) -> bytes:
    """The part of a result that a reference names."""
    if ref.optional and result == b"null":
        return result
    for part in ref.path:
        try:
            if isinstance(part, str):
                result = bytes(decode_object(result)[part])
            else:
                result = bytes(decode_array(result)[part])
        except (msgspec.MsgspecError, LookupError, RecursionError):
            path = "".join(f"[{one!r}]" for one in ref.path)
            raise ResultNotStored(
                f"the result of job {ref.job} has no {path}, which this job takes as {ref.at!r}; correct the path, or "
                "what that job returns",
                ref.job,
            ) from None
    return result


def row_of(ref: Ref, engine: Inspector) -> JobRow | None:
    """The record of the job, or of what stands for it."""
    row = engine.job(ref.job)
    if row is None:
        members, _ = engine.members(ref.join, None, 1)
        if members and members[0].id != ref.job:
            row = engine.job(members[0].id)
    return row
