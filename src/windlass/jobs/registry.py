"""Which jobs an application has, by name.

Must not import anything by a stored name: a job exists when its module was imported. Invariants: a name or alias
means one job; looking one up never changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from windlass.core.errors import ConfigError
from windlass.core.recovery import RecoveryRule
from windlass.core.units import nearest
from windlass.guards.circuits import Circuits
from windlass.jobs.spec import JobSpec

__all__ = ["Registry"]


class Registry:
    """The jobs of one application by name and alias, the circuits that they name, and its rules for dead ones."""

    def __init__(
        self, circuits: Circuits | None = None, builtin: Mapping[str, Callable[[], JobSpec]] | None = None
    ) -> None:
        """``builtin`` makes the jobs of ours by name; they are found, and in no list."""
        self.circuits = circuits
        self._builtin = builtin or {}
        self._specs: dict[str, JobSpec] = {}
        self.recoveries: list[RecoveryRule] = []

    def add(self, spec: JobSpec) -> None:
        """Register a job under its name and aliases.

        The same ``def`` executed again (a module reload) replaces the old one. Raises ConfigError for a name that
        another job has, and nothing is registered then.
        """
        names = (spec.name, *spec.aliases)
        for name in names:
            known = self._specs.get(name)
            if known is not None and not _is_reload(known.fn, spec.fn):
                raise ConfigError(_taken(name, known, spec))
        for name in names:
            self._specs[name] = spec

    def find(self, name: str) -> JobSpec | None:
        """Give the job of this name or alias, or None."""
        spec = self._specs.get(name)
        return self._builtin[name]() if spec is None and name in self._builtin else spec

    def builtin(self) -> dict[str, JobSpec]:
        """Give the jobs of ours by name: a worker runs them beside those of the application."""
        return {name: make() for name, make in self._builtin.items()}

    def get(self, name: str) -> JobSpec:
        """Give the job of this name or alias. Raises ConfigError with the nearest spelling."""
        spec = self._specs.get(name)
        if spec is None:
            raise ConfigError(
                f"no job is named {name!r}{nearest(name, self._specs) or '; import the module that defines it'}"
            )
        return spec

    def names(self) -> list[str]:
        """Give the names of all jobs, sorted, without aliases."""
        return sorted({spec.name for spec in self._specs.values()})

    def all_names(self) -> list[str]:
        """Give every name a stored job may carry, aliases included."""
        return list(self._specs)

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __len__(self) -> int:
        return len(self.names())


def _is_reload(old: Callable[..., object], new: Callable[..., object]) -> bool:
    # A function made inside another may be made many times from one place; a top-level one only by running its module
    # again.
    return old is not new and "<locals>" not in new.__qualname__ and _place(old) == _place(new)


def _place(fn: Callable[..., object]) -> tuple[str, int, str]:
    code = fn.__code__
    return code.co_filename, code.co_firstlineno, fn.__qualname__


def _taken(name: str, known: JobSpec, spec: JobSpec) -> str:
    if known.fn is spec.fn:
        return (
            f"job {name!r}: this function is a job already; decorate it once, and use "
            f"{spec.fn.__name__}.options(...) where a call should differ"
        )
    file, line, _ = _place(known.fn)
    return (
        f"job name {name!r} is taken by {known.fn.__qualname__} ({file}:{line}); give one of the two another name=. "
        "After a reload of an edited module, make a new Windlass or restart the process"
    )
