"""A workflow that is not stored yet: named steps, what each waits for, and what is to undo them.

Pure: ``app.start`` stores it, in one write. What happens then is joins of the engines and, for what is decided at run
time, the jobs of ``flow.builtin``. Invariant: a workflow is known by its id, so starting it twice starts it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast, get_args, overload

import msgspec
from msgspec.structs import replace

from windlass.core.errors import ConfigError
from windlass.core.ids import check_id, new_id
from windlass.core.model import NewJoin, Wait, Write
from windlass.core.spelling import spelled
from windlass.core.units import Duration, duration_ms, nearest
from windlass.flow.builtin import expand_job, subflow_job, undo_job
from windlass.flow.members import WATCH_MS
from windlass.flow.reading import WorkflowFacts
from windlass.flow.steps import UNDO, Parts, Steps, decode_facts, forward_join, listed, workflow_join
from windlass.jobs.call import Call, Enqueuer, call_of
from windlass.jobs.results import After, Step, StepResult, When
from windlass.settings import Settings

__all__ = ["OnStall", "Workflow", "app_of"]

R = TypeVar("R")

Undo: TypeAlias = "Call[object] | Callable[[Step[R]], Call[object]]"
OnStall: TypeAlias = Literal["retry", "alert", "cancel"]

ID_MAX: Final = 100  # characters: the ids of its steps are longer


@spelled
class Workflow:
    """Steps that are not stored yet: ``order = Workflow("order", id=f"order-{n}")``, ``order.add(...)``, ``app.start``.

    ``id`` makes starting it idempotent: while a record of the workflow is kept, and for ``id_keep`` after its end, the
    same id means the same workflow. ``deadline``, counted from the start: what has not ended then is cancelled. One in
    which nothing moves for ``stall_after`` is stalled: ``on_stall`` tells of it (alert), retries what hangs, or cancels
    it. Raises ConfigError.
    """

    def __init__(
        self,
        name: str,
        *,
        id: str | None = None,
        stall_after: Duration | None = None,
        on_stall: OnStall = "alert",
        deadline: Duration | None = None,
    ) -> None:
        where = f"Workflow({name!r})"
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: a workflow has a name, such as Workflow('order')")
        if id is not None and len(check_id(id)) > ID_MAX:
            raise ConfigError(f"{where}: the id {id[:40]!r}... has {len(id)} characters; use at most {ID_MAX}")
        if on_stall not in get_args(OnStall):
            raise ConfigError(
                f"{where}: on_stall is {on_stall!r}{nearest(str(on_stall), get_args(OnStall))}; it is one of "
                f"{', '.join(get_args(OnStall))}"
            )
        if on_stall != "alert" and stall_after is None:
            raise ConfigError(f"{where}: on_stall={on_stall!r} needs stall_after=, the time without any progress")
        self.name = name
        self.id = new_id() if id is None else id
        self.has_own_id = id is not None
        self.stall_ms = _length(stall_after, f"{where}: stall_after")
        self.deadline_ms = _length(deadline, f"{where}: deadline")
        self.on_stall = on_stall
        self._steps = Steps(self.id, self)
        self._steps.stall_ms = self.stall_ms
        self._steps.on_stall = "retry" if on_stall == "retry" else None  # the others are for the whole
        self._steps.reserved = UNDO
        self._is_given = False  # to start(), or as a step of another: nobody would see what comes later
        self._subs: dict[str, Workflow] = {}
        self._undo: dict[str, Call[object]] = {}
        self._results: set[str] = set()  # the joins of steps whose results those take

    def __repr__(self) -> str:
        return f"<Workflow {self.name} {self.id} of {len(self._steps)} steps>"

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def add(
        self,
        call: Call[R],
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        undo: Undo[R] | None = None,
    ) -> Step[R]: ...
    @overload
    def add(
        self,
        call: Workflow,
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        undo: Undo[dict[str, Any]] | None = None,
    ) -> Step[dict[str, Any]]: ...
    def add(
        self,
        call: Call[object] | Workflow,
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        undo: Undo[Any] | None = None,
    ) -> Step[Any]:
        """Add a step: a call, or a whole workflow, whose result is then the results of its last steps by name.

        ``name`` defaults to the name of the job, numbered when it is taken. ``after`` are the steps it waits for;
        whose result it takes is one of them anyway. ``when`` says how these must end: ``succeeded`` (all), ``failed``
        (all), ``any_failed`` (one is enough, and the others need not have ended) or ``finished`` (all, in any way).
        When that cannot come true any more the step is skipped. With another ``when`` than ``succeeded`` the result
        of a step that has none is None.

        ``undo`` runs when this step is done and the workflow has failed: the last step that is done is undone first.
        It is a call, or what makes one of the step: ``undo=lambda paid: refund.bind(paid.result["receipt"])``.
        Raises ConfigError or PayloadError for what can never be a step.
        """
        self._check_open("add()")
        if isinstance(call, Workflow):
            step: Step[Any] = self._add_workflow(call, name, after, when)
        else:
            step = self._steps.add(call, name, after, when)
        if undo is not None:
            try:
                self._undo[step.name] = self._undoing(undo, step)
            except BaseException:
                self._steps.drop(step)
                self._subs.pop(step.name, None)
                raise
        return step

    def expand(
        self,
        call: Call[R],
        over: object,
        *,
        name: str | None = None,
        after: After = (),
        when: Literal["succeeded", "finished"] = "succeeded",
    ) -> Step[list[R]]:
        """Add a step that makes a job of each item of a result: ``order.expand(resize.bind(), over=listing.result)``.

        The item comes as ``previous`` where the job has a parameter of that name, else as its first argument. The
        step is done when all of them are, and its result is the list of theirs, in the order of the items; it fails
        when one of them does, after all have ended. At most 10,000 items. Raises as ``add``.
        """
        where = f"{self!r}: expand()"
        self._check_open("expand()")
        call_of(call, where)
        if not isinstance(over, StepResult):
            raise ConfigError(
                f"{where}: over is {over!r}; give the result of a step that lists something, such as listing.result. "
                "Of a list that is known now, add() each item"
            )
        job = expand_job(call.maker.enqueuer, call, where, self._steps.watched)
        return cast("Step[list[R]]", self._steps.add(job(over), name, after, when, label=call.name))

    def _add_workflow(self, sub: Workflow, name: str | None, after: After, when: str) -> Step[dict[str, Any]]:
        where = f"{self!r}: add({sub!r})"
        if sub is self or not len(sub):
            raise ConfigError(f"{where}: " + ("a workflow is no step of itself" if sub is self else "it has no steps"))
        if sub.has_own_id:
            raise ConfigError(f"{where}: as a step it is known by the id of this workflow; leave out its id=")
        if sub.id in (one.id for one in self._subs.values()):
            raise ConfigError(f"{where}: it is a step of it already")
        if sub.deadline_ms is not None or sub.stall_ms is not None:
            raise ConfigError(f"{where}: deadline= and stall_after= belong to the outermost workflow")
        app = app_of(sub)
        assert app is not None
        before = listed(after, where)
        for one in sub._steps.foreign:
            if one.workflow != self.id:
                raise ConfigError(f"{where}: it takes a result of {one!r}, which is no step of this workflow")
            before.append(one)
        sub._steps.stall_ms, sub._steps.on_stall = self._steps.stall_ms, self._steps.on_stall
        parts = sub.parts(0, parent=self.id)
        self._results |= {ref.join for inner in parts.calls for ref in decode_facts(inner).refs}
        write = Write(tuple(call.new for call in parts.calls), joins=tuple(parts.joins))
        job = subflow_job(app, write, sub.id, parts.calls[0].queue)
        step: Step[Any] = self._steps.add(job, name or sub.name, before, when, sub=sub.id)
        self._subs[step.name] = sub
        sub._is_given = True
        return step

    def _check_open(self, what: str) -> None:
        if self._is_given:
            raise ConfigError(
                f"{self!r}: {what}: it was started, or added to another workflow, already, and this step would not be "
                "stored; add it before that, or let a running step add it with ctx.workflow.add()"
            )

    def _undoing(self, undo: Undo[Any], step: Step[Any]) -> Call[object]:
        """Give the call that undoes a step, as a step of its own."""
        if callable(undo) and not hasattr(undo, "spec"):  # a job is told that it is no call
            undo = undo(step)
        undo = call_of(undo, f"{self!r}: undo of step {step.name!r}")
        steps = Steps(self.id, self, UNDO)
        steps.app = self._steps.app
        steps.known = {one.step.name: one.step.id for one in self._steps}
        steps.add(undo, step.name, step, "finished")
        self._steps.foreign += steps.foreign
        (call,) = steps.parts([]).calls
        self._results |= {ref.join for ref in decode_facts(call).refs}
        return replace(call, new=replace(call.new, waits=None))

    def composed(self, settings: Settings) -> tuple[Sequence[Call[object]], Sequence[NewJoin]]:
        """Give what is stored of it; see ``jobs.call.Composition``."""
        keep_ms = max(settings.keep_done, settings.id_keep) if self.has_own_id else settings.keep_done
        parts = self.parts(keep_ms)
        self._is_given = True
        return parts.calls, parts.joins

    def parts(self, keep_ms: int, parent: str = "") -> Parts:
        """Give what is stored of it. It is kept for ``keep_ms`` from its end. Raises ConfigError."""
        if self._steps.foreign and not parent:
            raise ConfigError(
                f"{self!r} takes a result of {self._steps.foreign[0]!r}, which is a step of another workflow; add this "
                "one to that, or hand the value on as an argument"
            )
        whole = workflow_join(self.id)
        facts = WorkflowFacts(self.name, self.stall_ms, self.on_stall, self.deadline_ms, parent)
        meta = msgspec.json.encode(facts).decode()
        home = workflow_join(parent) if parent else None
        watch_ms = watch_of(self.stall_ms, self.deadline_ms)
        joins = [NewJoin(whole, keep_ms=keep_ms, home=home, meta=meta, watch_ms=watch_ms)]
        app = self._steps.app
        if app is None or not self._undo:
            parts = self._steps.parts([whole], self._results)
            return Parts(parts.calls, [*joins, *parts.joins])
        forward = forward_join(self.id)
        parts = self._steps.parts([whole, forward], self._results)
        undoing = Steps(self.id, self)
        undoing.add(undo_job(app, [(name, call.new) for name, call in self._undo.items()]), UNDO, (), "succeeded")
        (last,) = undoing.parts([whole]).calls
        last = replace(last, new=replace(last.new, waits=Wait(forward, "bad", 1)))
        return Parts([*parts.calls, last], [*joins, NewJoin(forward, home=whole), *parts.joins])


def app_of(workflow: Workflow) -> Enqueuer | None:
    """The application of the steps of a workflow; None: it has none."""
    return workflow._steps.app


def watch_of(stall_ms: int | None, deadline_ms: int | None) -> int:
    """How often to look at a workflow: often enough for a stall, and once just when its deadline is over."""
    watch_ms = min(WATCH_MS, stall_ms or WATCH_MS)
    return watch_ms if deadline_ms is None else -(-deadline_ms // -(-deadline_ms // watch_ms))


def _length(value: Duration | None, where: str) -> int | None:
    if value is None:
        return None
    ms = duration_ms(value, where)
    if ms == 0:
        raise ConfigError(f"{where} is {value!r}; it must be longer than zero")
    return ms
