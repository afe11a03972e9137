"""Jobs that cannot begin here: nobody knows their name, or nobody can read what is stored of them."""

from __future__ import annotations

from windlass.core.errors import PayloadError
from windlass.core.fingerprint import cause_of
from windlass.core.history import encode_error
from windlass.core.work import Kind, Lease, Outcome
from windlass.events import JobDead
from windlass.logs import Log
from windlass.worker.attempt.run import Host

__all__ = ["unknown", "unreadable"]

log = Log("windlass.worker")

FIRST_MS = 1_000  # how long a job that nobody here knows is put back; another worker may know it
DELAY_MS = 30_000  # likewise, once nobody has known it for long; source: reliability constants
SINCE = "no job of this name is registered; first met at "


def unknown(lease: Lease, host: Host) -> Outcome:
    """A job that this process has no code for: put back for a while (a deploy may be rolling), then dead."""
    now, grace = host.clock.wall_ms(), host.settings.unknown_grace
    since = now
    if lease.reason is not None and lease.reason.startswith(SINCE):
        since = int(lease.reason.removeprefix(SINCE))
    if now - since < grace:
        log.warning("no job named %s is registered here: job %s waits", lease.name, lease.id)
        longest = min(DELAY_MS, max(1, grace // 30))
        delay = min(longest, max(FIRST_MS, now - since))  # so the time since then doubles at most
        return Outcome(lease.id, lease.fence, Kind.SNOOZE, reason=f"{SINCE}{since}", delay_ms=delay)
    error = LookupError(
        f"no job is registered under {lease.name!r}; import its module in the worker's application, "
        "or keep its old name as an alias, then retry the job"
    )
    return stillborn(lease, host, error, "unknown job")


def unreadable(lease: Lease, host: Host, error: PayloadError) -> Outcome:
    """A job of which nobody can read what it carries: dead, as it is."""
    return stillborn(lease, host, error, "undecodable payload")


def stillborn(lease: Lease, host: Host, error: BaseException, reason: str) -> Outcome:
    text = encode_error(
        error, attempt=lease.attempt, at=host.clock.wall_ms(), limit=host.settings.error_max, origin=host.origin
    )
    host.events.emit(JobDead(lease.id, lease.name, lease.queue, lease.attempt, reason))
    return Outcome(lease.id, lease.fence, Kind.DEAD, error=text, reason=reason, cause=cause_of(error))
