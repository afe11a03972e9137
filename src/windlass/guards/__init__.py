"""Guards: what keeps a job from running twice, too often, beside another, or against a dependency that is down.

``options`` are what a job is defined with and ``keys`` renders their keys; ``lock`` and ``circuit`` are also of use
anywhere else. The store judges the guards of jobs when they are claimed; nothing here knows which store that is.
"""

from windlass.guards.circuit import Circuit, CircuitInfo
from windlass.guards.circuits import Circuits
from windlass.guards.lock import Lock, LockKeeper
from windlass.guards.options import Concurrency, Once, Rate, Unique

__all__ = ["Circuit", "CircuitInfo", "Circuits", "Concurrency", "Lock", "LockKeeper", "Once", "Rate", "Unique"]
