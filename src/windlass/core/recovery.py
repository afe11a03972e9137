"""When a dead job is redriven by a rule: for which exceptions, how long after its death, how often.

Pure. It must not import anything by a name, stored or written: a dotted name stands for the class of that name once the
application has imported it, and for the bare name until then. Invariant: a rule has a cap, so recover-and-fail ends.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from windlass.core import caps, control, errors
from windlass.core.errors import ConfigError
from windlass.core.fingerprint import POISON, type_name
from windlass.core.rows import Recovery
from windlass.core.spelling import unknown_option
from windlass.core.units import duration_ms, nearest, shown

__all__ = ["RecoveryRule", "rules_in"]

# Exceptions that can be named without a module.
BARE: Final[Mapping[str, type[BaseException]]] = {
    name: kind
    for module in (builtins, errors, control)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
OPTIONS: Final = ("on", "after", "attempts")
LIMIT: Final = 100  # jobs that a rule brings back at once: after an outage they should not come all together
DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class RecoveryRule(Struct, frozen=True):
    """Redrive dead jobs that died of these exceptions or of a subclass, ``attempts`` times each at most."""

    on: tuple[type[BaseException] | str, ...]
    after_ms: int
    attempts: int

    @classmethod
    def of(cls, options: Mapping[str, object], where: str) -> RecoveryRule:
        """Check what was written. ``where`` names the place in an error. Raises ConfigError."""
        for key in options:
            if key not in OPTIONS:
                raise unknown_option(where, key, OPTIONS)
        if "on" not in options:
            raise ConfigError(f"{where}: on is missing; name the exceptions to recover from, such as on=[TimeoutError]")
        attempts = options.get("attempts", 3)
        if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= caps.RECOVERIES:
            raise ConfigError(
                f"{where}: attempts is {shown(attempts)}; give how often a job is redriven, 1 to {caps.RECOVERIES}"
            )
        after = duration_ms(options.get("after", "1h"), f"{where}: after")
        return cls(tuple(_exceptions(options["on"], where)), after, attempts)

    def unknown(self) -> list[str]:
        """Give the names that no class of this process has; they match deaths of exactly that name."""
        return [one for one in self.on if isinstance(one, str) and one != POISON.error_type and _find(one) is None]

    def resolve(self) -> Recovery:
        """Give the rule as an engine takes it, with the names of all subclasses that this process knows now."""
        names: set[str] = set()
        for each in self.on:
            kind = _find(each) if isinstance(each, str) else each
            if kind is None:
                names.add(str(each))
            else:
                names |= {type_name(one) for one in _family(kind)}
        return Recovery(tuple(sorted(names)), self.after_ms, self.attempts, LIMIT)


def rules_in(tables: Sequence[Mapping[str, object]]) -> list[RecoveryRule]:
    """Give the rules of the setting ``recover``. Raises ConfigError."""
    return [RecoveryRule.of(table, f"recover, rule {number}") for number, table in enumerate(tables, 1)]


def _exceptions(value: object, where: str) -> list[type[BaseException] | str]:
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not given:
        raise ConfigError(f"{where}: on is empty; name the exceptions to recover from")
    found: list[type[BaseException] | str] = []
    for each in given:
        if isinstance(each, type) and issubclass(each, BaseException):
            found.append(each)
        elif not isinstance(each, str):
            raise ConfigError(f"{where}: on has {each!r}; give exception classes, or their names as text")
        elif each in BARE or each == POISON.error_type or DOTTED.fullmatch(each):
            found.append(each)
        else:
            raise ConfigError(
                f"{where}: there is no exception {each!r}{nearest(each, BARE)}; for any other, write package.Name"
            )
    return found


def _find(name: str) -> type[BaseException] | None:
    """The class of this name, if the process has it."""
    if name in BARE:
        return BARE[name]
    module, _, attribute = name.rpartition(".")
    kind = getattr(sys.modules.get(module), attribute, None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None


def _family(kind: type[BaseException]) -> set[type[BaseException]]:
    found = {kind}
    for child in type.__subclasses__(kind):
        found |= _family(child)
    return found
