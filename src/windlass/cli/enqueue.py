"""``windlass enqueue``: store one job from a shell, with the same checks as from code.

Arguments are JSON and become what the job's annotations say, so a text date is a datetime here as well. Must not run
the job.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.exits import NoLiveWorker
from windlass.cli.instants import instant
from windlass.cli.output import emit_json, inline, note, say
from windlass.core.codec import decode_plain
from windlass.core.errors import ConfigError, PayloadError, ResultError, ResultTimeout
from windlass.core.model import State
from windlass.jobs.definition import job_of
from windlass.jobs.spec import CallOptions, JobSpec
from windlass.settings import mask_url

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.jobs.call import Call
    from windlass.jobs.handle import JobHandle

__all__ = ["enqueue"]

LOOK: Final = 1.0  # seconds between two looks at the workers while a result is awaited


@click.command()
@click.argument("name")
@click.argument("args_json", default="[]")
@click.option("--in", "delay", metavar="DURATION", help="Run it after this time, such as 5m.")
@click.option("--at", metavar="DATETIME", help="Run it at this time: ISO 8601 with a time zone.")
@click.option("--queue", metavar="NAME", help="Use this queue instead of the job's own.")
@click.option("--id", "job_id", metavar="ID", help="An id of your own. A second job with the same id is not stored.")
@click.option("--priority", type=int, metavar="N", help="A lower number runs sooner.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it; exit 1 when the job fails.")
@pass_session
def enqueue(
    session: Session,
    name: str,
    args_json: str,
    delay: str | None,
    at: str | None,
    queue: str | None,
    job_id: str | None,
    priority: int | None,
    wait: bool,
) -> None:
    """Store one job and print its id.

    ARGS_JSON is a JSON list of positional arguments or an object of keyword arguments. --wait gives up (exit 69) if no
    live worker serves the queue for the length of one lease.
    """
    app = session.app()
    spec = app.registry.get(name)
    options: CallOptions = {}
    if delay is not None:
        options["delay"] = delay
    if at is not None:
        options["at"] = instant(at, "--at")
    if queue is not None:
        options["queue"] = queue
    if job_id is not None:
        options["id"] = job_id
    if priority is not None:
        options["priority"] = priority
    call = _call(app, spec, args_json, options)
    if not app.engine.info.shared:
        raise ConfigError(
            f"{mask_url(app.settings.url)} lives in one process, so the job would be gone when this command ends; "
            "use another URL"
        )
    handle = app.enqueue(call)
    if handle.duplicate:
        note(f"Job {handle.id} exists already; nothing new was stored.")
    if not wait:
        if session.json:
            emit_json({"id": handle.id, "duplicate": handle.duplicate})
        else:
            say(handle.id)
        return
    if not session.json:
        say(handle.id)
    try:
        result = _wait(app, handle, call.queue)
    except ResultError:
        if session.json:
            info = app.get(handle.id)
            emit_json(_answer(handle, info.state if info else None, None))
        raise
    if session.json:
        emit_json(_answer(handle, State.DONE, result))
    else:
        click.echo(inline(result))


def _answer(handle: JobHandle[object], state: State | None, result: object) -> dict[str, object]:
    return {"id": handle.id, "duplicate": handle.duplicate, "state": state, "result": result}


def _call(app: Windlass, spec: JobSpec, args_json: str, options: CallOptions) -> Call[object]:
    args, kwargs = _arguments(spec, args_json)
    return job_of(spec, app, app.settings).options(**options).bind(*args, **kwargs)


def _arguments(spec: JobSpec, text: str) -> tuple[list[object], dict[str, object]]:
    raw = text.encode(errors="surrogateescape")
    try:
        plain = decode_plain(raw)
    except PayloadError as error:
        raise PayloadError(
            f"the arguments of {spec.name} cannot be read: {error}; write a list such as '[42]', "
            "or an object such as '{\"payment_id\": 42}'"
        ) from error
    match plain:
        case list():
            payload = b"[1,%b,{}]" % raw
        case dict():
            payload = b"[1,[],%b]" % raw
        case _:
            raise PayloadError(f"the arguments of {spec.name} are a single value; put it into a list: '[{text}]'")
    return spec.signature.decode(payload)


def _wait(app: Windlass, handle: JobHandle[object], queue: str) -> object:
    lease = app.settings.lease / 1_000
    served = time.monotonic()
    while True:
        try:
            return handle.result(timeout=min(LOOK, lease))
        except ResultTimeout:
            if any(worker.alive and worker.serves(queue) for worker in app.workers()):
                served = time.monotonic()
            elif time.monotonic() - served >= lease:
                raise NoLiveWorker(
                    f"job {handle.id} is stored, but no live worker serves queue {queue!r}; "
                    f"start one: windlass worker -q {queue}"
                ) from None
