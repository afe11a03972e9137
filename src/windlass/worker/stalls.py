"""Runs that make no progress: who has a ``stall_after`` is looked at when nothing was heard of it for so long.

Progress is the start of the run, every note, and what else calls ``note_moved``. A look is on the thread of the
deadlines. What it finds is noted with the job, told as an event and logged, once for each stall; then the run goes on,
or its time is up. How it ends is not decided here.

Invariant: what could not run is not blamed. While this process stands still, or another job holds the interpreter lock
or the event loop, looks come late, and that time does not count; so there are several looks in one ``stall_after``. For
the same reason a call in C that does not let go of the lock is seen in a child process only: that one does not answer
when its worker asks it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec.structs import replace

from windlass.core.stall import STALL, Stall, encode_stall
from windlass.core.units import show_duration
from windlass.events import JobStalled
from windlass.logs import Log
from windlass.worker.attempt.deadlines import Deadlines
from windlass.worker.attempt.run import JobRun
from windlass.worker.attempt.told import tell
from windlass.worker.loop import LoopThread, loop_of
from windlass.worker.stacks import Stack, stack_of_task, stack_of_thread

__all__ = ["ANSWER", "LATE", "Stalls", "Watch"]

log = Log("windlass.worker")

LATE = 0.25  # seconds that the event loop may take to answer with nobody keeping it
ANSWER = 2.0  # seconds for the event loop or a child process to say where a run is
LOOKS = 8  # in one ``stall_after``: how finely it is seen that a run could not go on
LEAST = 0.001  # seconds between two looks: a stored limit that makes no sense must keep nothing busy

NO_ANSWER = Stack("an unknown place: its process does not answer, as when C code keeps the interpreter lock", ())

FOLLOWS = {"retry": "; its run is ended, and its retry policy decides", "cancel": "; it is cancelled"}


class Watch:
    """One run that is watched. But for ``over``, only the thread of the deadlines changes it."""

    def __init__(
        self, run: JobRun, ask: Callable[[Watch], Stack | None], unanswered: Callable[[Watch], Stack | None]
    ) -> None:
        """``ask`` gives the stack, or None when it comes later; ``unanswered`` likewise when it does not come.

        None from that: the run can be nowhere, since others keep it from running.
        """
        self.run = run
        self.ask = ask
        self.unanswered = unanswered
        self.after = (run.stall_ms or 0) / 1000
        self.since = 0.0  # when the run itself says that it last made progress
        self.seen_at = 0.0  # when it had last made progress, at the last look
        self.given = 0.0  # seconds since then that do not count
        self.due = 0.0
        self.asked = False
        self.told: Stall | None = None  # what was said of the stall that is on, or was at the last look
        self.told_at = 0.0  # when it had last moved then
        self.number = -1
        self.over = False

    @property
    def quiet(self) -> float:
        """Seconds without progress that count."""
        return time.monotonic() - max(self.run.moved_at, self.since) - self.given

    def next_look(self) -> float:
        """Seconds until the next look."""
        return min(self.after / LOOKS, self.after - self.quiet)


class Stalls:
    """The detector of one worker process."""

    def __init__(
        self,
        deadlines: Deadlines,
        loop: LoopThread,
        *,
        holds: Callable[[JobRun], bool],
        holder: Callable[[], JobRun | None],
        end: Callable[[JobRun], None],
    ) -> None:
        """``holds``: whether a run is on; ``holder``: whose code the event loop is in; ``end``: its time is up."""
        self._deadlines = deadlines
        self._loop = loop
        self._holds = holds
        self._holder = holder
        self._end = end
        self._on_loop: set[Watch] = set()

    # -- what is watched --

    def watch_thread(self, run: JobRun) -> Watch:
        """Watch a run in this thread."""
        ident = threading.get_ident()
        return self._begin(Watch(run, lambda _: stack_of_thread(ident), lambda _: None))

    def watch_coroutine(self, run: JobRun) -> Watch:
        """Watch a run on the event loop."""
        watch = Watch(run, self._ask_loop, self._read_holder)
        self._on_loop.add(watch)
        return self._begin(watch)

    def watch_child(self, run: JobRun, ask: Callable[[], object]) -> Watch:
        """Watch a run in a child process; ``ask`` has that say where it is, in a moment (``answered``)."""

        def ask_child(_: Watch) -> None:
            ask()

        return self._begin(Watch(run, ask_child, lambda _: NO_ANSWER))

    def drop(self, watch: Watch) -> None:
        """The run has ended. *Thread-safe.*"""
        watch.over = True
        self._on_loop.discard(watch)
        self._deadlines.drop(watch.number)

    def answered(self, watch: Watch, stack: Stack, quiet: float | None = None) -> None:
        """Take what was asked for. ``quiet``: seconds without progress, where the run itself knows. *Thread-safe.*"""
        since = 0.0 if quiet is None else time.monotonic() - quiet

        def take() -> None:
            watch.since = max(watch.since, since)
            self._found(watch, stack)

        self._deadlines.add(0.0, take)

    def lagged(self, holder: JobRun | None, seconds: float) -> None:
        """Give coroutines the time back that another one, or who knows what, has kept the loop from them."""
        for watch in list(self._on_loop):
            if watch.run is not holder:
                watch.given += seconds

    # -- on the thread of the deadlines --

    def _begin(self, watch: Watch) -> Watch:
        watch.run.note_moved()
        watch.seen_at = watch.run.moved_at
        self._again(watch, watch.next_look())
        return watch

    def _again(self, watch: Watch, seconds: float, call: Callable[[Watch], None] | None = None) -> None:
        seconds = max(LEAST, seconds)
        watch.due = time.monotonic() + seconds
        watch.number = self._deadlines.add(seconds, lambda: (call or self._look)(watch))
        if watch.over:  # in this moment
            self._deadlines.drop(watch.number)

    def _look(self, watch: Watch) -> None:
        run = watch.run
        if not self._holds(run) or run.lost or run.interrupted or run.timed_out:
            self._on_loop.discard(watch)  # of a run out of which an error came
            return
        if watch.seen_at != run.moved_at:
            watch.seen_at, watch.given = run.moved_at, 0.0
        now = time.monotonic()
        watch.given += max(0.0, min(now - watch.due, now - run.moved_at))
        if watch.told is not None and watch.told_at != run.moved_at:
            self._tell_moved(run, watch.told)
            watch.told = None
        if watch.told is not None:
            self._again(watch, watch.after)
        elif watch.quiet < watch.after:
            self._again(watch, watch.next_look())
        else:
            watch.asked = True
            stack = watch.ask(watch)
            if stack is not None:
                self._found(watch, stack)
            else:
                self._again(watch, ANSWER, self._give_up)

    def _give_up(self, watch: Watch) -> None:
        """Nobody has said where the run is."""
        stack = watch.unanswered(watch)
        if stack is not None:
            self._found(watch, stack)
        else:
            watch.asked = False
            self._again(watch, watch.after / LOOKS)

    def _found(self, watch: Watch, stack: Stack) -> None:
        if not watch.asked or not self._holds(watch.run):
            return
        watch.asked = False
        self._deadlines.drop(watch.number)
        if watch.quiet < watch.after:
            self._again(watch, watch.next_look())
        else:
            self._tell(watch, stack, watch.quiet)

    def _tell(self, watch: Watch, stack: Stack, quiet: float) -> None:
        run, lease = watch.run, watch.run.lease
        line, places = run.hide(stack.line), tuple(map(run.hide, stack.places))
        stall = Stall(run.clock.wall_ms(), round(quiet * 1000), line, places)
        watch.told, watch.told_at = stall, run.moved_at
        ends = run.on_stall in FOLLOWS
        try:
            log.warning(
                "job %s %s has made no progress for %s, at %s%s",
                lease.name, lease.id, show_duration(stall.quiet_ms), line, FOLLOWS.get(run.on_stall, ""),
            )  # fmt: skip
            run.host.note(run, STALL, encode_stall(stall))
            tell(run, JobStalled, lease.attempt, quiet, line, places)
        finally:
            if ends:
                run.stall = stall
                self._end(run)
            else:
                self._again(watch, watch.after)

    def _tell_moved(self, run: JobRun, stall: Stall) -> None:
        moved_at = run.clock.wall_ms() - round((time.monotonic() - run.moved_at) * 1000)
        run.host.note(run, STALL, encode_stall(replace(stall, moved_at=max(stall.at, moved_at))))
        log.info("job %s %s gets on again", run.lease.name, run.lease.id)

    # -- coroutines --

    def _ask_loop(self, watch: Watch) -> Stack | None:
        """Where a coroutine is: in a call that it does not come back from, or where its task awaits."""
        stack = self._read_holder(watch)
        if stack is None:
            asked_at = time.monotonic()
            self._loop.call(lambda: self._read_task(watch, asked_at))
        return stack

    def _read_holder(self, watch: Watch) -> Stack | None:
        ident = self._loop.ident
        return stack_of_thread(ident) if ident is not None and self._holder() is watch.run else None

    def _read_task(self, watch: Watch, asked_at: float) -> None:
        """On the loop: where the task awaits. When others have kept the loop it could not go on until now."""
        task = loop_of(watch.run).task_of(watch.run)
        if task is not None:
            is_late = time.monotonic() - asked_at > max(LATE, watch.after / LOOKS)
            self.answered(watch, stack_of_task(task), 0.0 if is_late else None)
