"""The table of legal moves, against a second copy written by hand, pair by pair."""

from __future__ import annotations

from itertools import product

import pytest

from windlass.core.model import FINISHED, TRANSITIONS, WAITING, State, can_move

LEGAL = {
    "ready": "running blocked done cancelled",
    "scheduled": "ready cancelled",
    "blocked": "ready scheduled running done cancelled",
    "running": "ready scheduled blocked done dead cancelled",
    "done": "",
    "dead": "ready",
    "cancelled": "ready blocked",
}


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_a_move_is_legal_exactly_where_the_table_says(before: State, after: State) -> None:
    assert can_move(before, after) is (after.value in LEGAL[before.value].split())
    assert can_move(before, after) is (after in TRANSITIONS[before])


def test_the_table_has_every_state() -> None:
    assert set(TRANSITIONS) == set(State)


def test_no_state_moves_to_itself() -> None:
    assert [state for state in State if can_move(state, state)] == []


def test_states_are_waiting_running_or_finished_and_only_one_of_them() -> None:
    assert not WAITING & FINISHED
    assert set(State) - WAITING - FINISHED == {State.RUNNING}


def test_only_a_running_job_ends_dead_and_one_that_waits_may_end_done_as_a_duplicate() -> None:
    assert [state for state in State if can_move(state, State.DEAD)] == [State.RUNNING]
    assert {state for state in State if can_move(state, State.DONE)} == {State.READY, State.BLOCKED, State.RUNNING}


def test_a_job_runs_only_when_it_is_due_and_its_guards_let_it() -> None:
    assert {state for state in State if can_move(state, State.RUNNING)} == {State.READY, State.BLOCKED}


def test_every_waiting_or_running_job_can_be_cancelled() -> None:
    assert {state for state in State if can_move(state, State.CANCELLED)} == WAITING | {State.RUNNING}


def test_done_is_final() -> None:
    assert TRANSITIONS[State.DONE] == frozenset()


def test_every_state_is_reached_from_ready() -> None:
    seen, open_ = {State.READY}, [State.READY]
    while open_:
        for state in TRANSITIONS[open_.pop()] - seen:
            seen.add(state)
            open_.append(state)
    assert seen == set(State)
