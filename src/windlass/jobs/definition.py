"""Jobs as user code sees them: a function with its options, and calls of it that are not stored yet.

Options are checked where they are written, arguments where they are bound. Must not know an engine: everything that
stores goes through the ``Enqueuer`` that made the job. Invariants: a Job, its spec and a Call never change; a Call is
one job-to-be, so its id is made by ``bind`` and storing it twice stores it once.

A stored job carries what ``options()`` changed in timeout, stall_after, keep, backoff and version; where it carries
nothing the worker uses the definition of its own code, so a corrected timeout also counts for jobs that already wait.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from msgspec import structs

from windlass.core.codec import Signature
from windlass.core.errors import ConfigError, NotInJob, PayloadError, UnknownOption
from windlass.core.ids import check_id, new_id
from windlass.core.meta import Meta, Ref, encode_meta
from windlass.core.model import Guard, NewJob
from windlass.core.retry import Backoff, Retry, encode_backoff
from windlass.core.spelling import spelled, unknown_option
from windlass.core.units import Duration, duration_ms
from windlass.guards.options import GuardPlan, compile_guards
from windlass.jobs import options as check
from windlass.jobs.call import Call, Enqueuer, Plan
from windlass.jobs.context import JobContext, current_job
from windlass.jobs.handle import JobHandle
from windlass.jobs.hooks import Hook, Moment
from windlass.jobs.results import results_in
from windlass.jobs.spec import CALL_KEYS, DEFAULT_QUEUE, GUARD_KEYS, JOB_KEYS, CallOptions, JobSpec
from windlass.settings import Settings

__all__ = ["AsyncJob", "Job", "JobDecorator", "define", "guard_plan", "job_of"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@spelled
class BaseJob(Generic[P, R]):
    """What sync and async jobs have in common."""

    __name__: str
    __qualname__: str

    def __init__(self, spec: JobSpec, enqueuer: Enqueuer, plan: Plan, settings: Settings) -> None:
        functools.update_wrapper(cast("Callable[..., object]", self), spec.fn)
        self.spec = spec
        self.enqueuer = enqueuer
        self._plan = plan
        self._settings = settings
        self._encode = spec.signature.encode
        self._slot = spec.slot

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.name}>"

    @property
    def name(self) -> str:
        """The name that is stored with every call."""
        return self.spec.name

    @overload
    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def bind(self: BaseJob[Concatenate[Any, Q], R], *args: Q.args, **kwargs: Q.kwargs) -> Call[R]: ...
    def bind(self, *args: object, **kwargs: object) -> Call[R]:
        """Make a Call: checked, encoded, with an id, not stored. Raises PayloadError for arguments that do not fit.

        One that fits but for its first argument, or ``previous``, can be a step of a chain and nothing else.
        """
        plan = self._plan
        lacks: str | None = None
        try:
            payload = self._encode(args, kwargs)
        except PayloadError as error:
            payload, lacks = self._bind_open(args, kwargs, error)
        guards: tuple[Guard, ...] = ()
        unique = None
        if plan.guards is not None and lacks is None:
            guards, unique = plan.guards.render(*self.spec.signature.as_run(args, kwargs, payload))
        new = NewJob(
            plan.id or new_id(),
            self.spec.name,
            plan.queue,
            payload,
            plan.priority,
            plan.run_at,
            plan.delay_ms,
            plan.at_front,
            plan.max_attempts,
            plan.expires_ms,
            plan.tags,
            plan.meta,
            plan.id is not None,
            plan.durable,
            self._settings.aging or 0,
            guards,
            unique,
            self._slot,
        )
        return Call(self.spec, args, kwargs, new, self, plan.connection, lacks)

    def _bind_open(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], error: PayloadError
    ) -> tuple[str, str]:
        """Give the payload of a call that lacks what the step before it will give, and why it is not whole."""
        try:
            if holes := results_in(args, kwargs):
                steps = ", ".join(dict.fromkeys(repr(result.step.name) for result in holes.values()))
                payload = self.spec.signature.encode_open(args, kwargs, holes)
                return payload, f"job {self.spec.name!r} takes a result of {steps}: add the call to that workflow"
            args, kwargs, at = self._open_first(args, kwargs)
            payload = self.spec.signature.encode_open(args, kwargs, (at,))
        except PayloadError:
            raise error from None
        return payload, f"{error}. In a chain, the result of the step before is put in its place"

    def _open_first(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], Mapping[str, object], int | str]:
        """Make room for the result of the step before it, and say where that is."""
        at = self.spec.signature.place_of_previous(len(args))
        if at is None:
            raise PayloadError(
                f"job {self.spec.name!r} has no parameter for the result of the step before; give it a first "
                "parameter, or one that is called previous"
            )
        if isinstance(at, int):
            return (*args[:at], None, *args[at:]), kwargs, at
        if at in kwargs:
            raise PayloadError(f"job {self.spec.name!r}: {at!r} is given, and is to be filled in as well")
        return args, kwargs, at

    def as_step(self, call: Call[object], job: str, join: str) -> Call[object]:
        """Give a call of this job as one that gets the result of another: as ``previous``, else as its first argument.

        The other is ``job``, or what stands for it as the only member of ``join``. Raises PayloadError for arguments
        that do not fit beside it, and ConfigError for a guard whose key depends on it.
        """
        args, kwargs, at = self._open_first(call.args, call.kwargs)
        return self._filled_in(call, args, kwargs, (Ref(at, job, join),))

    def as_item(self, call: Call[object]) -> tuple[Call[object], int | str]:
        """Give a call of this job whose first argument, or ``previous``, is put in later, and say where that is.

        Raises as ``as_step``.
        """
        args, kwargs, at = self._open_first(call.args, call.kwargs)
        filled = self._filled_in(call, args, kwargs, (Ref(at, "", ""),))
        return structs.replace(filled, new=structs.replace(filled.new, meta=self._plan.meta)), at

    def with_results(self, call: Call[object], refs: tuple[Ref, ...]) -> Call[object]:
        """Give a call whose arguments have results of steps as one that gets those. Raises as ``as_step``."""
        return self._filled_in(call, call.args, call.kwargs, refs)

    def _filled_in(
        self, call: Call[object], args: tuple[object, ...], kwargs: Mapping[str, object], refs: tuple[Ref, ...]
    ) -> Call[object]:
        signature, holes = self.spec.signature, [ref.at for ref in refs]
        payload = signature.encode_open(args, kwargs, holes)
        guards: tuple[Guard, ...] = ()
        unique = None
        if self._plan.guards is not None:
            for name in map(signature.name_at, holes):
                if keyed := self._plan.guards.key_of(name):
                    raise ConfigError(
                        f"{keyed}: the key is made of {name!r} when the job is stored, and here that is the result of "
                        "another job, which nobody knows yet; make it of other arguments"
                    )
            guards, unique = self._plan.guards.render(*signature.as_open(payload, holes))
        facts = structs.replace(self._plan.facts, refs=refs)
        new = structs.replace(call.new, payload=payload, guards=guards, unique=unique, meta=encode_meta(facts))
        return structs.replace(call, new=new, lacks=None)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store one job. *Atomic, idempotent by id, blocking.* Raises PayloadError, EngineUnavailable, EngineFull."""
        return self.enqueuer.enqueue(self.bind(*args, **kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store one job without blocking the event loop; see ``enqueue``."""
        return await self.enqueuer.aenqueue(self.bind(*args, **kwargs))

    def enqueue_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store one job that is due after ``delay``; see ``enqueue``."""
        return self.enqueuer.enqueue(self._with({"delay": delay}).bind(*args, **kwargs))

    async def aenqueue_in(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store one job that is due after ``delay``; see ``enqueue``."""
        return await self.enqueuer.aenqueue(self._with({"delay": delay}).bind(*args, **kwargs))

    def enqueue_at(self, when: datetime, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store one job that is due at ``when``, an aware datetime; see ``enqueue``."""
        return self.enqueuer.enqueue(self._with({"at": when}).bind(*args, **kwargs))

    async def aenqueue_at(self, when: datetime, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store one job that is due at ``when``, an aware datetime; see ``enqueue``."""
        return await self.enqueuer.aenqueue(self._with({"at": when}).bind(*args, **kwargs))

    def on_dead(self, fn: Hook) -> Hook:
        """Call ``fn`` with the JobInfo of each call of this job that died: ``@charge.on_dead``; see ``hooks``."""
        return self.enqueuer.hooks.add(Moment.DEAD, fn, self.spec.name)

    def on_retry(self, fn: Hook) -> Hook:
        """Call ``fn`` with the JobInfo of each call of this job that failed and will run again; see ``hooks``."""
        return self.enqueuer.hooks.add(Moment.RETRY, fn, self.spec.name)

    def _with(self, options: Mapping[str, object]) -> BaseJob[P, R]:
        plan = _replan(self.spec, self._plan, options, self._settings)
        return type(self)(self.spec, self.enqueuer, plan, self._settings)

    def _arguments(self, args: tuple[object, ...]) -> tuple[object, ...]:
        if not self.spec.takes_context:
            return args
        try:
            return (current_job(), *args)
        except NotInJob:
            name, called = self.spec.name, self.spec.fn.__name__
            raise NotInJob(
                f"job {name!r} takes a JobContext, and there is no running job here whose context it could be given: "
                f"store it with {called}.enqueue(...), or call it from inside a job. To try it with a context of your "
                f"own, call {called}.__wrapped__(ctx, ...)"
            ) from None


class Job(BaseJob[P, R]):
    """A registered function. Calling it runs it here and now; ``enqueue`` and ``bind`` make it a job."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the plain function, with the current context if it takes one. Raises NotInJob when there is none."""
        return cast(R, self.spec.fn(*self._arguments(args), **kwargs))

    def options(self, **options: Unpack[CallOptions]) -> Job[P, R]:
        """Give the same job with other options for its calls. Raises ConfigError for a wrong one."""
        return cast("Job[P, R]", self._with(options))


class AsyncJob(BaseJob[P, R]):
    """A registered coroutine function; see ``Job``."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the plain coroutine function; see ``Job``."""
        return cast(R, await cast(Coroutine[object, object, object], self.spec.fn(*self._arguments(args), **kwargs)))

    def options(self, **options: Unpack[CallOptions]) -> AsyncJob[P, R]:
        """Give the same job with other options for its calls. Raises ConfigError for a wrong one."""
        return cast("AsyncJob[P, R]", self._with(options))


class JobDecorator(Protocol):
    """What ``app.job(...)`` gives: turns a function into a job, typed after its signature without the context."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[JobContext, P], Coroutine[object, object, R]], /
    ) -> AsyncJob[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[JobContext, P], R], /) -> Job[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[object, object, R]], /
    ) -> AsyncJob[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Job[P, R]: ...


def define(
    fn: Callable[..., object],
    options: Mapping[str, object],
    enqueuer: Enqueuer,
    settings: Settings,
    circuits: Iterable[str] = (),
) -> Job[..., object] | AsyncJob[..., object]:
    """Make a job of a function. ``circuits`` are those it may name.

    Raises ConfigError for a wrong option or a function that cannot be one.
    """
    if not inspect.isfunction(fn):
        raise ConfigError(f"{fn!r} cannot be a job; decorate a function made with def")
    where = f"job {fn.__module__}.{fn.__qualname__}"
    _check_keys(options, JOB_KEYS, where)
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(f"{where} is a generator; its body would never run. Return a value instead")
    if check.is_method(fn):
        raise ConfigError(
            f"{where} is a method, and a worker has no object to call it on; make it a function, or put @staticmethod "
            "above @app.job"
        )
    name = check.job_name(options["name"], where) if "name" in options else check.default_name(fn)
    where = f"job {name!r}"
    is_async, takes_context = inspect.iscoroutinefunction(fn), check.takes_context(fn)
    retry = _policy(options.get("retry"), settings, where)
    redact = check.redact(options.get("redact", ()), fn, takes_context, where)
    stall_ms = check.length(options.get("stall_after"), f"{where}: stall_after")
    spec = JobSpec(
        name=name,
        fn=fn,
        is_async=is_async,
        takes_context=takes_context,
        signature=Signature(
            fn, skip_first=takes_context, job_name=name, payload_max=settings.payload_max, redact=redact
        ),
        queue=check.queue(options.get("queue", DEFAULT_QUEUE), where, settings),
        priority=check.priority(options.get("priority", 0), where),
        retry=retry,
        timeout_ms=check.length(options.get("timeout"), f"{where}: timeout"),
        stall_ms=stall_ms,
        on_stall=check.on_stall(options["on_stall"], where, stall_ms) if "on_stall" in options else "alert",
        expires_ms=check.length(options.get("expires"), f"{where}: expires"),
        executor=check.executor(options.get("executor"), is_async, where),
        keep_ms=check.length(options.get("keep"), f"{where}: keep", least=0),
        durability=check.durability(options.get("durability"), where),
        tags=check.tags(options.get("tags", ()), where),
        redact=redact,
        version=check.version(options.get("version"), where),
        aliases=tuple(
            check.job_name(alias, where) for alias in check.texts(options.get("aliases", ()), f"{where}: aliases")
        ),
        guards={key: options[key] for key in GUARD_KEYS if options.get(key) is not None},
        circuits=tuple(circuits),
    )
    return job_of(spec, enqueuer, settings)


def job_of(spec: JobSpec, enqueuer: Enqueuer, settings: Settings) -> Job[..., object] | AsyncJob[..., object]:
    """Make the job of a spec, for who knows it by name only. Raises ConfigError for a wrong guard."""
    facts = Meta(redact=spec.redact, version=spec.version)
    plan = Plan(
        queue=spec.queue,
        priority=spec.priority,
        max_attempts=spec.retry.max_attempts,
        expires_ms=spec.expires_ms,
        tags=spec.tags,
        durable=check.durable(spec.durability),
        facts=facts,
        meta=encode_meta(facts),
        guards=guard_plan(spec),
    )
    if spec.is_async:
        return AsyncJob(spec, enqueuer, plan, settings)
    return Job(spec, enqueuer, plan, settings)


def _replan(spec: JobSpec, plan: Plan, options: Mapping[str, object], settings: Settings) -> Plan:
    where = f"options of job {spec.name!r}"
    _check_keys(options, CALL_KEYS, where)
    options = {key: value for key, value in options.items() if value is not None or key not in ("delay", "at", "id")}
    if "delay" in options and "at" in options:
        raise ConfigError(f"{where}: delay and at are both given; give one of them")
    changes: dict[str, object] = {}
    facts: dict[str, object] = {}
    if any(key in GUARD_KEYS for key in options):
        given: dict[str, object] = {key: options[key] for key in GUARD_KEYS if key in options}
        changes["guards"] = _guards(spec, {**spec.guards, **given}, where)
    for key, value in options.items():
        match key:
            case "queue":
                changes[key] = check.queue(value, where, settings)
            case "priority":
                changes[key] = check.priority(value, where)
            case "retry":
                changes["max_attempts"], said = _own_retry(value, spec, settings, where)
                facts |= said
            case "timeout":
                facts["timeout_ms"] = check.unlifted(
                    check.length(value, f"{where}: timeout"), spec.timeout_ms, key, where
                )
            case "stall_after":
                facts["stall_ms"] = check.unlifted(check.length(value, f"{where}: {key}"), spec.stall_ms, key, where)
            case "expires":
                changes["expires_ms"] = check.length(value, f"{where}: expires")
            case "keep":
                facts["keep_ms"] = check.unlifted(
                    check.length(value, f"{where}: keep", least=0), spec.keep_ms, key, where
                )
            case "durability":
                changes["durable"] = check.durable(check.durability(value, where))
            case "tags":
                changes[key] = check.tags(value, where)
            case "version":
                facts[key] = check.version(value, where)
            case "delay":
                changes |= {"delay_ms": duration_ms(value, f"{where}: delay"), "run_at": None}
            case "at":
                changes |= {"delay_ms": 0, "run_at": check.instant(value, where)}
            case "id":
                changes[key] = check_id(value)
            case "at_front":
                if not isinstance(value, bool):
                    raise ConfigError(f"{where}: at_front is {value!r}; it is True or False")
                changes[key] = value
            case "once" | "unique" | "circuit" | "limits" | "on_stall":
                pass  # with others
            case _:
                changes[key] = value
    if "on_stall" in options:
        stall_ms = facts.get("stall_ms", plan.facts.stall_ms) or spec.stall_ms
        facts["on_stall"] = check.on_stall(options["on_stall"], where, cast("int | None", stall_ms))
    if facts:
        changed = structs.replace(plan.facts, **facts)
        changes |= {"facts": changed, "meta": encode_meta(changed)}
    return structs.replace(plan, **changes)


def guard_plan(spec: JobSpec) -> GuardPlan | None:
    """The guards that a job is defined with, ready to be rendered for a call. Raises ConfigError for a wrong one."""
    return _guards(spec, spec.guards, f"job {spec.name!r}")


def _guards(spec: JobSpec, guards: Mapping[str, object], where: str) -> GuardPlan | None:
    return compile_guards(guards, spec.signature, spec.redact, spec.circuits, where)


def _policy(value: object, settings: Settings, where: str) -> Retry:
    try:
        return Retry.of(cast("int | Retry | None", value), settings.attempts, settings.backoff)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _own_retry(value: object, spec: JobSpec, settings: Settings, where: str) -> tuple[int, dict[str, object]]:
    """What the ``retry=`` of a call says: how many runs, and what is stored with the job."""
    retry = Retry.of(cast("int | Retry | None", value), settings.attempts, settings.backoff)
    if not isinstance(value, Retry):
        if retry.rules:
            raise ConfigError(f"{where}: rules cannot be stored with a job; give them to @app.job(retry=...)")
        # A bare number changes how often, not how long to wait or for how long.
        return retry.max_attempts, {"capped": isinstance(value, int) and bool(spec.retry.rules)}
    if retry.rules or not isinstance(retry.backoff, Backoff):
        raise ConfigError(
            f"{where}: rules and functions cannot be stored with a job; give them to @app.job(retry=Retry(...)). "
            "A call may change attempts, within and a shipped backoff"
        )
    return retry.max_attempts, {
        "backoff": encode_backoff(retry.backoff),
        "within_ms": retry.within_ms,
        "capped": isinstance(value.attempts, int) and bool(spec.retry.rules),
    }


def _check_keys(options: Mapping[str, object], valid: frozenset[str], where: str) -> None:
    for key in options:
        if key in valid:
            continue
        if key in JOB_KEYS:
            raise UnknownOption(f"{where}: {key} belongs to the definition; give it to @app.job({key}=...)")
        if key in CALL_KEYS:
            raise UnknownOption(f"{where}: {key} belongs to a call; give it to .options({key}=...)")
        raise unknown_option(where, key, sorted(valid))
