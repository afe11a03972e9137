"""How a caller blocks: for work, and for jobs to finish. Missed and spurious wake-ups are legal everywhere."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

import msgspec

from windlass.core.model import Guard, GuardKind
from windlass.core.rows import Action
from windlass.core.work import Claimed, Lease, Settled, Want
from windlass.testing.conformance.harness import (
    DEADLINE_S,
    Harness,
    add,
    ended,
    finish,
    job,
    join,
    place,
    take,
    take_one,
)

LONG_S = 600.0  # longer than any test: a wait that is not ended is seen as such
NUDGE_S = 0.05


def ended_by(wait: Callable[[], object], nudge: Callable[[], object], once: bool = False) -> bool:
    """Whether a long wait in another thread ends within the deadline, nudged until it does, or only once."""
    over = Event()

    def body() -> None:
        wait()
        over.set()

    # A daemon: a wait that nothing ends must fail the test, not hold the whole run.
    Thread(target=body, daemon=True).start()
    if once:
        nudge()
        return over.wait(DEADLINE_S)
    for _ in range(int(DEADLINE_S / NUDGE_S)):
        nudge()
        if over.wait(NUDGE_S):
            return True
    return False


class WaitSuite:
    """``Engine.wait``, ``wake`` and ``Inspector.wait_finished``."""

    def test_a_wait_that_nothing_ends_times_out(self, harness: Harness) -> None:
        store = harness.engine
        assert any(not store.wait(["default"], 0.01) for _ in range(50))
        assert any(not store.wait(None, 0.01) for _ in range(50))

    def test_what_is_stored_while_a_worker_listens_is_claimed(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        numbers = iter(range(10_000))
        claimed: list[Claimed | None] = []

        def listen() -> None:
            while not (claimed and claimed[-1] and claimed[-1].leases):
                claimed.append(store.listen(["default"], LONG_S, Want("w1", 5)))

        assert ended_by(listen, lambda: add(other, f"j{next(numbers)}"))
        assert claimed[-1] is not None
        first = claimed[-1].leases[0]
        assert first.id == "j0"
        assert store.settle([ended(first)]) == [Settled.APPLIED]

    def test_what_is_stored_with_guards_while_a_worker_listens_is_judged(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        claimed: list[Lease] = []
        guards = (Guard(GuardKind.CONCURRENCY, "k", 1),)

        def listen() -> None:
            while not claimed:
                answer = store.listen(["default"], LONG_S, Want("w1", 5))
                claimed.extend(answer.leases if answer else ())

        numbers = iter(range(10_000))

        def store_two() -> None:
            ids = [f"j{next(numbers)}" for _ in range(2)]
            place(other, [msgspec.structs.replace(job(one), guards=guards) for one in ids])

        assert ended_by(listen, store_two)
        assert [lease.id for lease in claimed] == ["j0"]
        assert take(store) == []

    def test_whoever_listens_without_being_known_is_told(self, harness: Harness) -> None:
        store = harness.engine
        numbers = iter(range(10_000))
        answers: list[Claimed] = []

        def listen() -> None:
            while not answers:
                answer = store.listen(["default"], LONG_S, Want("nobody", 5))
                answers.extend([answer] if answer else [])

        assert ended_by(listen, lambda: add(store, f"j{next(numbers)}"))
        assert (answers[0].expelled, answers[0].leases) == (True, [])

    def test_a_listener_that_nothing_ends_gives_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        answers = [store.listen(["default"], 0.01, Want("w1", 1)) for _ in range(5)]
        assert all(answer is None or answer.leases == [] for answer in answers)

    def test_wake_ends_a_listener(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        assert ended_by(lambda: store.listen(["default"], LONG_S, Want("w1", 1)), store.wake)

    def test_wake_ends_a_wait_that_is_under_way(self, harness: Harness) -> None:
        store = harness.engine
        assert ended_by(lambda: store.wait(["default"], LONG_S), store.wake)

    def test_one_wake_ends_the_wait_now_or_the_next_one(self, harness: Harness) -> None:
        store = harness.engine
        assert ended_by(lambda: store.wait(["default"], LONG_S), store.wake, once=True)

    def test_a_wake_before_the_wait_ends_it(self, harness: Harness) -> None:
        store = harness.engine
        store.wake()
        assert ended_by(lambda: store.wait(None, LONG_S), lambda: None, once=True)

    def test_an_enqueue_of_another_engine_object_ends_a_wait(self, harness: Harness) -> None:
        store, other, numbers = harness.engine, harness.second(), iter(range(10_000))
        assert ended_by(lambda: store.wait(["default"], LONG_S), lambda: place(other, [job(f"j{next(numbers)}")]))

    def test_a_job_that_comes_to_a_queue_that_is_known_ends_a_wait(self, harness: Harness) -> None:
        # A queue that is new may wake by its name alone.
        store, other, numbers = harness.engine, harness.second(), iter(range(10_000))
        join(store)
        finish(store, "known", queue="later")
        while other.wait(["later"], 0.01):  # what was said before
            pass
        assert ended_by(
            lambda: other.wait(["later"], LONG_S),
            lambda: place(store, [job(f"j{next(numbers)}", queue="later")]),
        )

    def test_a_settle_with_a_follow_up_ends_a_wait(self, harness: Harness) -> None:
        store, other, numbers = harness.engine, harness.second(), iter(range(10_000))
        join(store)
        finish(store, "known", queue="later")
        add(store, *(f"j{n}" for n in range(1_000)))
        leases = iter(take(store, limit=1_000))
        while other.wait(["later"], 0.01):  # what was said before
            pass

        def nudge() -> None:
            store.settle([ended(next(leases), then=(job(f"then{next(numbers)}", queue="later"),))])

        assert ended_by(lambda: other.wait(["later"], LONG_S), nudge)

    def test_an_enqueue_of_the_same_engine_object_ends_a_wait_for_any_queue(self, harness: Harness) -> None:
        store, numbers = harness.engine, iter(range(10_000))
        assert ended_by(lambda: store.wait(None, LONG_S), lambda: place(store, [job(f"j{next(numbers)}", queue="new")]))

    def test_jobs_that_are_finished_or_gone_need_no_wait(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a", "b")
        assert store.wait_finished([], 0.0)
        assert store.wait_finished(["a", "b", "never"], 0.0)

    def test_waiting_for_a_job_that_does_not_finish_times_out(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a")
        add(store, "b")
        assert not store.wait_finished(["a", "b"], 0.05)
        take_one(store)
        assert not store.wait_finished(["b"], 0.05)

    def test_a_settle_of_another_engine_object_ends_the_wait_for_a_job(self, harness: Harness) -> None:
        store, other, answers = harness.engine, harness.second(), list[bool]()
        join(store)
        add(store, "a")
        lease = take_one(store)
        assert ended_by(
            lambda: answers.append(store.wait_finished(["a"], LONG_S)), lambda: other.settle([ended(lease)]), once=True
        )
        assert answers == [True]

    def test_a_cancel_ends_the_wait_for_a_job(self, harness: Harness) -> None:
        store, other, answers = harness.engine, harness.second(), list[bool]()
        add(store, "a")
        assert ended_by(
            lambda: answers.append(store.wait_finished(["a"], LONG_S)),
            lambda: other.transition(Action.CANCEL, ["a"]),
            once=True,
        )
        assert answers == [True]
