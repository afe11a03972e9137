"""The behavioural suite that every engine passes, for our engines and for those of others.

Subclass ``EngineConformance`` in a test module and give it a fixture ``harness``; build the state machine with
``build_machine``. To see values in failing asserts, let ``conftest.py`` call
``pytest.register_assert_rewrite("windlass.testing.conformance")`` before it imports this package.

    class TestMyEngine(EngineConformance):
        @pytest.fixture
        def harness(self) -> Iterator[Harness]: ...

    TestMyEngineMachine = build_machine(MyHarness).TestCase
    TestMyEngineGuardMachine = build_machine(MyHarness, base=GuardMachine).TestCase
    TestMyEngineHoldMachine = build_machine(MyHarness, base=HoldMachine).TestCase
    TestMyEngineJoinMachine = build_machine(MyHarness, base=JoinMachine).TestCase

It must not know any engine: no SQL, no keys, no promise that ``engines.base``, ``model`` and the design do not make.
Where those are silent, the test's docstring starts with ``Choice:``. Invariants: no test sleeps or asserts on elapsed
time; engine time moves only through ``Harness.clock``; order is compared only where it is promised.
"""

from __future__ import annotations

from windlass.testing.conformance.bounds import BoundSuite
from windlass.testing.conformance.circuits import CircuitSuite
from windlass.testing.conformance.claim import ClaimSuite
from windlass.testing.conformance.commit import CommitSuite
from windlass.testing.conformance.compositions import CompositionSuite
from windlass.testing.conformance.counts import CountSuite
from windlass.testing.conformance.dead import DeadSuite
from windlass.testing.conformance.documents import DocumentSuite
from windlass.testing.conformance.enqueue import EnqueueSuite
from windlass.testing.conformance.fields import FieldSuite
from windlass.testing.conformance.guardmachine import GuardMachine
from windlass.testing.conformance.guards import GuardSuite
from windlass.testing.conformance.harness import Harness
from windlass.testing.conformance.holds import HoldMachine, HoldSuite
from windlass.testing.conformance.inspector import InspectorSuite
from windlass.testing.conformance.joinmachine import JoinMachine
from windlass.testing.conformance.joins import JoinSuite
from windlass.testing.conformance.leases import LeaseSuite
from windlass.testing.conformance.machine import build_machine
from windlass.testing.conformance.maintenance import MaintenanceSuite
from windlass.testing.conformance.notes import NoteSuite
from windlass.testing.conformance.once import OnceSuite
from windlass.testing.conformance.payload import PayloadSuite
from windlass.testing.conformance.queuenames import QueueNameSuite
from windlass.testing.conformance.rates import RateSuite
from windlass.testing.conformance.settle import SettleSuite
from windlass.testing.conformance.slots import SlotSuite
from windlass.testing.conformance.unique import UniqueSuite
from windlass.testing.conformance.waiting import WaitSuite
from windlass.testing.conformance.watching import WatchSuite

__all__ = [
    "BoundSuite",
    "CircuitSuite",
    "ClaimSuite",
    "CommitSuite",
    "CompositionSuite",
    "CountSuite",
    "DeadSuite",
    "DocumentSuite",
    "EngineConformance",
    "EnqueueSuite",
    "FieldSuite",
    "GuardMachine",
    "GuardSuite",
    "Harness",
    "HoldMachine",
    "HoldSuite",
    "InspectorSuite",
    "JoinMachine",
    "JoinSuite",
    "LeaseSuite",
    "MaintenanceSuite",
    "NoteSuite",
    "OnceSuite",
    "PayloadSuite",
    "QueueNameSuite",
    "RateSuite",
    "SettleSuite",
    "SlotSuite",
    "UniqueSuite",
    "WaitSuite",
    "WatchSuite",
    "build_machine",
]


class EngineConformance(
    EnqueueSuite,
    FieldSuite,
    CommitSuite,
    ClaimSuite,
    QueueNameSuite,
    SlotSuite,
    BoundSuite,
    SettleSuite,
    NoteSuite,
    LeaseSuite,
    MaintenanceSuite,
    WaitSuite,
    InspectorSuite,
    JoinSuite,
    CompositionSuite,
    WatchSuite,
    PayloadSuite,
    GuardSuite,
    CircuitSuite,
    RateSuite,
    OnceSuite,
    UniqueSuite,
    HoldSuite,
    DeadSuite,
    DocumentSuite,
    CountSuite,
):
    """All of it. A subclass supplies the fixture ``harness``."""
