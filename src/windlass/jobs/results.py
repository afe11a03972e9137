"""Steps as their workflow gives them, and the result of one as an argument of another.

A result that is not known yet is a stand-in that names the step; the job gets the real thing. Pure. To a type checker
``step.result`` is what the step returns, so a call that takes it is checked as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

from windlass.core.spelling import spelled

__all__ = ["After", "Step", "StepResult", "When", "results_in"]

R_co = TypeVar("R_co", covariant=True)


When: TypeAlias = Literal["succeeded", "failed", "any_failed", "finished"]


@spelled
class Step(Generic[R_co]):
    """One step of a workflow, to be named in ``after=`` of others. ``result`` stands for what it will return."""

    __slots__ = ("id", "name", "workflow")

    def __init__(self, workflow: str, name: str, id: str) -> None:
        self.workflow = workflow
        self.name = name
        self.id = id

    def __repr__(self) -> str:
        return f"<Step {self.name} of {self.workflow}>"

    @property
    def result(self) -> R_co:
        """Its result, as an argument of a later step: ``ship.bind(receipt=paid.result)``, or ``paid.result["id"]``."""
        return cast(R_co, StepResult(self))


After: TypeAlias = "Step[object] | str | Iterable[Step[object] | str]"


class StepResult:
    """What a step will return, or a part of it: ``pay.result["receipt"]``."""

    __slots__ = ("path", "step")

    def __init__(self, step: Step[Any], path: tuple[int | str, ...] = ()) -> None:
        self.step = step
        self.path = path

    def __repr__(self) -> str:
        return f"<result of {self.step.name}{''.join(f'[{part!r}]' for part in self.path)}>"

    def __getitem__(self, part: int | str) -> StepResult:
        """Give a part of it: by key, or by place from 0. Raises TypeError for another kind of part."""
        if isinstance(part, bool) or not isinstance(part, int | str):
            raise TypeError(f"{self!r}[{part!r}]: a part of a result is named by text or by a place from 0")
        if isinstance(part, int) and part < 0:
            raise TypeError(f"{self!r}[{part}]: places count from 0; how many there are shows when the step is done")
        return StepResult(self.step, (*self.path, part))

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or name in self.__slots__:
            raise AttributeError(name)
        raise AttributeError(f"{self!r}.{name}: it is known when the step is done; write [{name!r}] for a part of it")

    def __iter__(self) -> object:
        raise TypeError(f"{self!r} is known when the step is done; expand() makes a job of each of its items")

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is known when the step is done; decide by when= or in a job of your own")

    def __eq__(self, other: object) -> bool:
        return bool(self)

    __hash__ = object.__hash__

    def __str__(self) -> str:
        raise TypeError(
            f"{self!r} is known when the step is done, so no text can be made of it here; do that in the job"
        )


def results_in(args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[int | str, StepResult]:
    """The arguments that are results of steps, by position or name."""
    found: dict[int | str, StepResult] = {at: one for at, one in enumerate(args) if isinstance(one, StepResult)}
    found.update({name: one for name, one in kwargs.items() if isinstance(one, StepResult)})
    return found
