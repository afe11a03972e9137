"""What the store answers to the beats of a worker's heart: what was lost, what was cancelled, what is asked of it.

It runs on the thread of the heart. It stops runs and gives claims back. Whether the worker itself goes on is not
decided here: what people ask for through the store is handed up.
"""

from __future__ import annotations

from collections.abc import Callable

from windlass.core.work import Heartbeat, LeaseRef
from windlass.events import LeaseExpired
from windlass.logs import Log
from windlass.worker.attempt.outcomes import stray
from windlass.worker.held import Held
from windlass.worker.host import RunHost
from windlass.worker.settler import Settler

__all__ = ["Beats"]

log = Log("windlass.worker")


class Beats:
    """Hears the answers to the beats of one worker."""

    def __init__(self, host: RunHost, held: Held, settler: Settler, on_control: Callable[[str], None]) -> None:
        """``on_control`` is called with what somebody asked of this worker."""
        self._host = host
        self._held = held
        self._settler = settler
        self._on_control = on_control
        self._strays: set[LeaseRef] = set()

    def hear(self, beat: Heartbeat) -> None:
        """Do what follows from the answer to a beat."""
        for ref in beat.cancels:
            self._host.cancel(ref)
        for ref in beat.lost:
            self._lose(ref)
        self._release_strays(set(beat.strays))
        for word in beat.control:
            self._on_control(word)

    def _lose(self, ref: LeaseRef) -> None:
        run = self._held.of(ref)
        # One whose transaction commits may have lost its claim to itself. If not, the next beat says it again.
        if run is not None and not (run.settling or run.settled):
            self._host.lose(run)
            lease = run.lease
            log.warning("job %s %s was taken over by another worker; its run here is stopped", lease.name, lease.id)
            self._host.events.emit(LeaseExpired(lease.id, lease.name, lease.queue, lease.attempt))

    def _release_strays(self, strays: set[LeaseRef]) -> None:
        """Give back claims whose answer got lost: those that two beats in a row showed and that nothing here holds.

        One beat is not enough: a claim may have been answered after the beat's list of leases was made.
        """
        twice, self._strays = self._strays & strays, strays
        for ref in twice:
            if self._held.of(ref) is None and not self._settler.holds(ref):
                log.warning("job %s was claimed by a call whose answer got lost; it is given back", ref.id)
                self._settler.add(stray(ref))
