"""Steps that belong together and wait for one another: the rules of adding one, and what is stored of them.

Each step is a job, and each that waits has a join of its own, whose members are the steps it waits for. All of them are
members of the join of the workflow. Must not ask or change a store. Invariants: a step waits only for steps that were
added before it, so there is no cycle; what is wrong with a step shows when it is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast, get_args

from msgspec import Struct
from msgspec.structs import replace

from windlass.core import caps
from windlass.core.errors import ConfigError, PayloadError
from windlass.core.ids import UNSAFE
from windlass.core.meta import Meta, Ref, StepFacts, decode_meta, encode_meta
from windlass.core.model import Ends, NewJoin, Wait
from windlass.core.units import nearest
from windlass.flow.members import MEMBERS_MAX, check_app, joined, waiting
from windlass.jobs.call import Call, Enqueuer, call_of, check_call
from windlass.jobs.results import After, Step, StepResult, When, results_in

__all__ = [
    "UNDO",
    "Added",
    "Parts",
    "Steps",
    "decode_facts",
    "edge_of",
    "forward_join",
    "listed",
    "own_join_of",
    "step_id",
    "workflow_join",
]

R = TypeVar("R")

WAITS: Final[dict[str, tuple[Ends, int]]] = {
    "succeeded": ("ok", 0), "failed": ("bad", 0), "any_failed": ("bad", 1), "finished": ("end", 0),
}  # fmt: skip
NAME_MAX: Final = 80  # characters of a step's name
UNDO: Final = "undo"  # the step that undoes others


def workflow_join(workflow: str) -> str:
    """The join of all steps of a workflow."""
    return f"workflow:{workflow}"


def edge_of(workflow: str, step: str) -> str:
    """The join of what a step waits for."""
    return f"edge:{workflow}:{step}"


def forward_join(workflow: str) -> str:
    """The join of the steps of a workflow but for those that undo others."""
    return f"forward:{workflow}"


def own_join_of(workflow: str, step: str) -> str:
    """The join whose only member a step is: where its result is looked for."""
    return f"step:{workflow}:{step}"


def step_id(workflow: str, step: str) -> str:
    """The id of the job that a step is, if its call has not chosen one."""
    return f"{workflow}:{step}"


def listed(after: After, where: str) -> list[Step[object] | str]:
    """Give the steps to wait for as a list. Raises ConfigError for what is none."""
    if isinstance(after, Step | str):
        return [after]
    if isinstance(after, StepResult) or not isinstance(after, Iterable):
        raise ConfigError(f"{where}: after is {after!r}; give steps, as add() gives them, or their names")
    return list(after)


class Added(Struct):
    """A step that was added, and is not stored yet."""

    step: Step[object]
    call: Call[object]
    after: tuple[str, ...]
    when: str
    joins: tuple[str, ...] = ()  # more of them: what it holds up
    sub: str = ""  # the workflow that it runs


class Parts(Struct, frozen=True):
    """What is stored of a composition, in one write."""

    calls: Sequence[Call[object]]
    joins: Sequence[NewJoin]


class Steps:
    """Steps of one workflow, in the order in which they were added. ``owner`` is shown in errors."""

    def __init__(self, workflow: str, owner: object, parent: str = "") -> None:
        """``parent``: the running step that adds these, under whose name they stand."""
        self.workflow = workflow
        self.app: Enqueuer | None = None
        self.foreign: list[Step[object]] = []  # of the workflow around this one: results of theirs are asked for
        self.stall_ms: int | None = None  # of each that says nothing itself
        self.on_stall: str | None = None
        self.known: dict[str, str] = {}  # the ids of steps that are stored already
        self.reserved = ""  # a name that no step of the caller has
        self._owner = owner
        self._parent = parent
        self._added: dict[str, Added] = {}
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._added)

    def __iter__(self) -> Iterator[Added]:
        return iter(self._added.values())

    def __contains__(self, name: object) -> bool:
        return name in self._added

    def add(
        self,
        call: Call[R],
        name: str | None,
        after: After,
        when: str,
        joins: tuple[str, ...] = (),
        sub: str = "",
        label: str = "",
    ) -> Step[R]:
        """Add a step. A name that is left out is made of ``label``, or of the name of the job.

        Raises ConfigError or PayloadError for what can never be one.
        """
        owner = self._owner
        call_of(call, f"{owner!r}")
        name = self._name(name, label or call.name)
        where = f"{owner!r}: step {name!r}"
        self.app = check_app(call, self.app, where)
        if call.connection is not None:
            raise ConfigError(
                f"{where}: {call!r} has a connection=, and all steps are stored together; give it to start()"
            )
        if when not in WAITS:
            raise ConfigError(f"{where}: when is {when!r}{nearest(str(when), WAITS)}; it is one of {', '.join(WAITS)}")
        wanted = results_in(call.args, call.kwargs)
        names = self._after(after, where, list(wanted.values()))
        if not names and when != "succeeded":
            raise ConfigError(f"{where}: when={when!r} says something of the steps it waits for; give after=")
        step: Step[R] = Step(self.workflow, name, call.id if call.new.caller_id else step_id(self.workflow, name))
        if len(step.id) > caps.ID:
            raise ConfigError(f"{where}: its job would have the id {step.id!r}, and {caps.ID} characters are the most")
        if step.id in self._ids:
            raise ConfigError(f"{where}: {call!r} is a step of it already; bind another call, or give it another id")
        if len(self._added) >= MEMBERS_MAX:
            raise ConfigError(
                f"{where}: a workflow is stored in one write, so it has at most {MEMBERS_MAX:,} steps; "
                "app.batch(...) takes as many jobs as there are"
            )
        optional = when != "succeeded"
        if wanted:
            refs = tuple(
                Ref(at, one.step.id, own_join_of(one.step.workflow, one.step.name), one.path, optional)
                for at, one in wanted.items()
            )
            try:
                call = cast("Call[R]", call.maker.with_results(call, refs))
            except (PayloadError, ConfigError) as error:
                raise type(error)(f"{where}: {error}") from None
        check_call(call, where)
        if names:
            call = cast("Call[R]", waiting(call, Wait(edge_of(self.workflow, name), *WAITS[when]), where))
        self._ids.add(step.id)
        self._added[name] = Added(step, call, names, when, joins, sub)
        return step

    def drop(self, step: Step[Any]) -> None:
        """Take the last step back."""
        del self._added[step.name]
        self._ids.discard(step.id)

    def _name(self, name: str | None, job: str) -> str:
        given = job if name is None else name
        if (
            not isinstance(given, str)
            or not 1 <= len(given) <= NAME_MAX
            or UNSAFE.search(given)
            or ":" in given
            or "/" in given
        ):
            raise ConfigError(
                f"{self._owner!r}: {given!r} cannot be the name of a step; give a name= of 1 to {NAME_MAX} characters, "
                "none of them a colon, a slash or a control character"
            )
        if given == self.reserved:
            raise ConfigError(f"{self._owner!r}: {given!r} is the step that undoes others; give this one another name=")
        full = base = f"{self._parent}/{given}" if self._parent else given
        if name is not None and full in self:
            raise ConfigError(f"{self._owner!r} has a step {full!r} already; give this one another name=")
        number = 1
        while full in self:
            number += 1
            full = f"{base}-{number}"
        return full

    def _after(self, after: After, where: str, results: Sequence[StepResult]) -> tuple[str, ...]:
        """The names of the steps that are waited for."""
        given = listed(after, where)
        names: dict[str, None] = {}
        for one in [*given, *(cast("Step[object]", result.step) for result in results)]:
            if isinstance(one, Step):
                if one.workflow != self.workflow:
                    if any(one is result.step for result in results) and one not in given:
                        self.foreign.append(one)
                        continue
                    raise ConfigError(f"{where}: {one!r} is a step of another workflow; it waits for steps of its own")
                names[one.name] = None
            elif isinstance(one, str):
                if one not in self and one not in self.known:
                    raise ConfigError(
                        f"{where}: there is no step {one!r} before it"
                        f"{nearest(one, [*self._added, *self.known]) or '; add it first'}"
                    )
                names[one] = None
            else:
                raise ConfigError(f"{where}: after has {one!r}; give steps, as add() gives them, or their names")
        return tuple(names)

    def watched(self, facts: Meta) -> Meta:
        """Give what a job says for itself with how long it may stand still, if it says nothing of that."""
        if facts.stall_ms is not None or self.stall_ms is None:
            return facts
        return replace(facts, stall_ms=self.stall_ms, on_stall=self.on_stall)

    def parts(self, all_in: Sequence[str], results: Iterable[str] = ()) -> Parts:
        """Give what is stored of the steps. All of them enter the joins ``all_in``.

        ``results`` are joins of single steps that somebody else needs.
        """
        whole = workflow_join(self.workflow)
        members: dict[str, list[str]] = {name: list(all_in) for name in self._added}
        joins: list[NewJoin] = []
        for name, one in self._added.items():
            if one.after:
                edge = edge_of(self.workflow, name)
                stored = tuple(self.known[other] for other in one.after if other not in self)
                joins.append(NewJoin(edge, stored, home=whole))
                for other in one.after:
                    if other in self:
                        members[other].append(edge)
            members[name] += one.joins
        wanted = {ref.join for one in self for ref in decode_facts(one.call).refs} | set(results)
        for name in self._added:
            if (own := own_join_of(self.workflow, name)) in wanted:
                joins.append(NewJoin(own, home=whole))
                members[name].append(own)
        calls = []
        for number, (name, one) in enumerate(self._added.items()):
            step = StepFacts(self.workflow, name, number, one.after, one.when, self._parent, one.sub)
            facts = self.watched(replace(decode_facts(one.call), step=step))
            call = joined(one.call, *members[name])
            calls.append(replace(call, new=replace(call.new, id=one.step.id, meta=encode_meta(facts))))
        return Parts(calls, joins)


def decode_facts(call: Call[object]) -> Meta:
    """What a call says for itself."""
    meta = call.new.meta
    return decode_meta(None if meta is None else meta.encode())


assert set(get_args(When)) == set(WAITS)
