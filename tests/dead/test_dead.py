"""``app.dead``: groups, redrive at once, editing, discarding, export and load."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from dead_shop import Shop
from windlass import Concurrency, JobInfo, Once, Rate, State, Unique
from windlass.core.rows import Action
from windlass.core.work import LeaseRef
from windlass.dead.deadlist import DeadFilters, DeadGroup
from windlass.errors import ConfigError, PayloadError, TransitionRefused
from windlass.testing.conformance.harness import edit


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.app.close()


def group_of(shop: Shop, error: str) -> str:
    (group,) = shop.app.dead.groups(error=error)
    return group.fingerprint


# -- looking -----------------------------------------------------------------------------------------------


def test_five_thousand_failed_jobs_of_three_causes_become_three_groups(shop: Shop) -> None:
    hows = [("late", "lost", "broken")[n % 3] for n in range(5_000)]
    shop.die(*hows)
    groups = shop.app.dead.groups()
    assert sorted((group.error, group.count) for group in groups) == [
        ("LookupError", 1_667), ("RuntimeError", 1_666), ("TimeoutError", 1_667),
    ]  # fmt: skip
    assert {group.names for group in groups} == {("ship",)}
    assert all(group.frame == "dead_shop.Shop.__init__.<locals>.ship" for group in groups)


def test_a_group_shows_a_sample_and_hides_what_is_redacted(shop: Shop) -> None:
    before = datetime.now(UTC)
    ids = shop.die("late", "late", card="4111-1111")
    (group,) = shop.app.dead.groups()
    assert group.sample is not None
    assert group.sample.id in ids
    assert group.sample.args is not None
    assert group.sample.args[2] == "•••"
    assert group.message == f"parcel {group.sample.args[0]} of ••• is late"
    assert before - timedelta(seconds=1) < group.first_seen <= group.last_seen <= datetime.now(UTC)


def test_every_error_says_where_it_happened(shop: Shop) -> None:
    (job_id,) = shop.die("broken")
    info = shop.app.get(job_id)
    assert info is not None
    (error,) = info.errors
    assert error.host
    assert len(error.worker) == 36
    assert error.version == "app 1"
    assert "ZeroDivisionError" in error.traceback  # the chain is there
    assert "direct cause" in error.traceback


def test_list_gives_dead_jobs_only_and_filters(shop: Shop) -> None:
    late, lost = shop.die("late", "lost")
    shop.enqueue("fine")
    dead = shop.app.dead

    def ids(**filters: object) -> list[str]:
        found = [info.id for info in dead.list(**cast(DeadFilters, filters))]
        assert dead.count(**cast(DeadFilters, filters)) == len(found)
        return found

    assert ids() == [lost, late]
    assert ids(error="TimeoutError") == ids(error=TimeoutError) == [late]
    assert ids(group=group_of(shop, "LookupError")) == ids(group=dead.groups(error=LookupError)[0]) == [lost]
    assert len(ids(name="ship", queue="default", tag="money")) == 2
    assert ids(name="other") == ids(queue="other") == ids(tag="other") == []
    assert len(ids(before=0)) == len(ids(after="1h")) == 2
    assert ids(before="1h") == ids(after=datetime.now(UTC) + timedelta(hours=1)) == []
    assert [info.id for info in dead.list([late, "never"])] == [info.id for info in dead.list(late)] == [late]
    page = dead.list(limit=1)
    assert [info.id for info in dead.list(limit=1, cursor=page.next)] == [late]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"grup": "x"}, "did you mean 'group'"),
        ({"before": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"after": "soon"}, "after"),
        ({"limit": 0}, "limit"),
    ],
)
def test_a_wrong_filter_is_refused(shop: Shop, filters: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        shop.app.dead.list(**filters)  # type: ignore[arg-type]


# -- running again -----------------------------------------------------------------------------------------


def test_retry_moves_a_group_at_once(shop: Shop) -> None:
    late, lost, later = shop.die("late", "lost", "late")
    shop.app.dead.edit(late, [7])
    progress: list[tuple[int, int]] = []
    redrive = shop.app.dead.retry(
        group=group_of(shop, "TimeoutError"), on_progress=lambda *counts: progress.append(counts)
    )
    assert (redrive.total, redrive.done, redrive.state) == (2, 2, "done")
    assert redrive.wait()
    assert progress == [(2, 2)]
    assert shop.states([late, lost, later]) == ["ready", "dead", "ready"]
    shop.burst()
    assert shop.states([late, lost, later]) == ["done", "dead", "dead"]
    info = shop.app.get(later)
    assert info is not None
    assert [error.attempt for error in info.errors] == [1, 1]  # a fresh budget; the history stays


@pytest.mark.parametrize("positional", [True, False], ids=["positional", "keyword"])
def test_retry_and_discard_take_a_group_as_groups_gave_it(store: dict[str, str], positional: bool) -> None:
    shop = Shop(store.get("WINDLASS_URL", "memory://"))
    dead = shop.app.dead
    late, lost, later, broken = shop.die("late", "lost", "late", "broken")
    groups = {group.error: group for group in dead.groups()}

    def given(error: str) -> tuple[tuple[DeadGroup, ...], DeadFilters]:
        return ((groups[error],), {}) if positional else ((), {"group": groups[error]})

    args, filters = given("TimeoutError")
    assert {info.id for info in dead.list(*args, **filters)} == {late, later}
    assert dead.count(*args, **filters) == 2
    assert dead.retry(*args, **filters, limit=1).total == 1
    assert asyncio.run(dead.aretry(*args, **filters)).total == 1
    args, filters = given("LookupError")
    assert dead.retry(*args, **filters, rate="5/s").total == 1
    assert dead.discard(*args, **filters) == 1
    args, filters = given("RuntimeError")
    assert asyncio.run(dead.adiscard(*args, **filters)) == 1
    assert shop.states([late, lost, later, broken]) == ["ready", "gone", "ready", "gone"]
    # They have all left it: nothing to do is no error.
    assert (dead.discard(*args, **filters), dead.retry(*args, **filters).total) == (0, 0)
    shop.app.close()


@pytest.mark.parametrize("wrong", ["number", "group_twice", "groups", "info", "mixed"])
def test_what_is_neither_an_id_nor_a_group_is_refused(shop: Shop, wrong: str) -> None:
    shop.die("late")
    dead = shop.app.dead
    (group,) = dead.groups()
    args, filters = {
        "number": ((), {"group": 5}),
        "group_twice": ((group,), {"group": group}),
        "groups": ((dead.groups(),), {}),
        "info": ((group.sample,), {}),
        "mixed": ((["x", 5],), {}),
    }[wrong]
    for call in (dead.list, dead.count, dead.retry, dead.discard):
        with pytest.raises(ConfigError, match="group"):
            call(*args, **filters)  # type: ignore[operator]
    assert dead.count() == 1


def test_a_filter_that_is_none_does_not_mean_all_when_it_comes_to_deleting(shop: Shop) -> None:
    shop.die("late")
    for filters in ({}, {"group": None}, {"name": None, "tag": None}):
        with pytest.raises(ConfigError, match="say which"):
            shop.app.dead.discard(**cast(DeadFilters, filters))
    assert shop.app.dead.discard([]) == 0
    assert shop.app.dead.count() == 1


def test_retry_takes_ids_and_leaves_what_is_not_dead(shop: Shop) -> None:
    first, second = shop.die("late", "late")
    (ready,) = shop.enqueue("fine")
    redrive = shop.app.dead.retry([first, ready, "never"])
    assert (redrive.total, redrive.done) == (1, 1)
    assert shop.states([first, second]) == ["ready", "dead"]
    assert shop.app.dead.retry(second).done == 1


def test_retry_with_a_limit_moves_no_more(shop: Shop) -> None:
    shop.die(*["late"] * 5)
    redrive = shop.app.dead.retry(limit=3)
    assert (redrive.total, redrive.done, shop.app.dead.count()) == (3, 3, 2)


def test_retry_in_many_batches_moves_each_job_once(shop: Shop) -> None:
    shop.die(*["late"] * 1_201)
    shop.runs.clear()
    assert shop.app.dead.retry().done == 1_201
    shop.burst()
    assert sorted(shop.runs) == list(range(1_201))


@pytest.mark.parametrize("options", [{"rate": "fast"}, {"rate": 0}, {"rate": "5000/s"}, {"limit": 0}, {"rate": True}])
def test_a_wrong_rate_or_limit_is_refused(shop: Shop, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"dead.retry"):
        shop.app.dead.retry(**options)  # type: ignore[arg-type]


# -- editing -----------------------------------------------------------------------------------------------


def test_edit_replaces_arguments_and_the_job_stays_dead(shop: Shop) -> None:
    (job_id,) = shop.die("late")
    info = shop.app.dead.edit(job_id, args=[5, "fine"])
    assert (info.state, info.args) == (State.DEAD, (5, "fine"))
    assert len(info.errors) == 1
    shop.runs.clear()
    shop.app.dead.retry(job_id)
    shop.burst()
    assert (shop.runs, shop.states([job_id])) == ([5], ["done"])


def test_edit_can_run_the_job_at_once(shop: Shop) -> None:
    (job_id,) = shop.die("late")
    assert shop.app.dead.edit(job_id, args=[6], kwargs={"how": "fine"}, retry=True).state is State.READY
    shop.burst()
    assert shop.states([job_id]) == ["done"]


def test_edit_leaves_what_is_not_given(shop: Shop) -> None:
    handle = shop.ship.enqueue(1, how="late")
    shop.burst()
    assert shop.app.dead.edit(handle.id, kwargs={"how": "fine"}).args == (1,)
    info = shop.app.dead.edit(handle.id, args=[2])
    assert (info.args, info.kwargs) == ((2,), {"how": "fine"})


def test_keys_of_guards_follow_the_arguments_and_those_of_the_call_stay(shop: Shop) -> None:
    @shop.app.job(name="pay", retry=0, once=Once("pay:{n}"), unique=Unique("u:{n}"), limits=Concurrency(2, key="t:{n}"))
    def pay(n: int, fails: bool = False) -> int:
        if fails:
            raise ValueError("no")
        return n

    handle = pay.options(limits=Rate("5/s", key="own")).enqueue(1, fails=True)
    shop.burst()
    assert handle.state is State.DEAD
    shop.app.dead.edit(handle.id, args=[2], kwargs={})
    row = shop.app.engine.job(handle.id)
    assert row is not None
    assert row.unique is not None
    assert ([guard.gate for guard in row.guards], row.unique.key) == (["once:pay:2", "rate:own"], "u:2")
    # The payment of the old number is another one, and the edited one is that of the new number.
    shop.app.dead.retry(handle.id)
    old, new = pay.enqueue(1), pay.options(unique=None).enqueue(2)
    shop.burst()
    assert (old.info().reason, handle.info().result) == (None, 2)
    assert new.info().reason == f"duplicate of {handle.id}"


def test_edit_checks_arguments_as_enqueue_does(shop: Shop) -> None:
    (job_id,) = shop.die("late")
    wrong: list[tuple[list[object], dict[str, object]]] = [([], {}), (["x"], {}), ([1], {"unknown": 1})]
    for args, kwargs in wrong:
        with pytest.raises(PayloadError, match="ship"):
            shop.app.dead.edit(job_id, args, kwargs)
    with pytest.raises(PayloadError, match="•••"):
        shop.app.dead.edit(job_id, [1, "fine", "•••"])
    with pytest.raises(ConfigError, match="give a list"):
        shop.app.dead.edit(job_id, "fine")
    info = shop.app.get(job_id)
    assert info is not None
    assert info.args == (0, "late", "•••")


def test_edit_repairs_a_payload_that_nobody_can_read(shop: Shop) -> None:
    (job_id,) = shop.die("late")
    row = shop.app.engine.job(job_id)
    assert row is not None
    edit(shop.app.engine, LeaseRef(job_id, row.fence), "nonsense", (), None)
    with pytest.raises(PayloadError, match="give both"):
        shop.app.dead.edit(job_id, [1])
    assert shop.app.dead.edit(job_id, [1], {}).args == (1,)


def test_only_a_dead_job_is_edited(shop: Shop) -> None:
    (job_id,) = shop.enqueue("fine")
    with pytest.raises(TransitionRefused, match="it is ready"):
        shop.app.dead.edit(job_id, [1])
    with pytest.raises(TransitionRefused, match="no record"):
        shop.app.dead.edit("never", [1])


# -- removing ----------------------------------------------------------------------------------------------


def test_discard_deletes_what_is_meant_and_nothing_without_a_word(shop: Shop) -> None:
    late, lost = shop.die("late", "lost")
    with pytest.raises(ConfigError, match=r"before=0"):
        shop.app.dead.discard()
    assert shop.app.dead.discard(error=TimeoutError) == 1
    assert shop.states([late, lost]) == ["gone", "dead"]
    assert shop.app.dead.discard(before=0) == 1
    assert shop.app.dead.count() == 0


# -- files -------------------------------------------------------------------------------------------------


def test_what_is_exported_and_loaded_is_as_it_was(shop: Shop, tmp_path: Path) -> None:
    ids = shop.die("late", "lost", "broken")
    before = [shop.app.engine.job(job_id) for job_id in ids]
    file = tmp_path / "dead.jsonl"
    assert shop.app.dead.export(file, reveal=True) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["dead.jsonl"]
    shop.app.dead.discard(before=0)
    progress: list[tuple[int, int]] = []
    assert shop.app.dead.load(file, on_progress=lambda *counts: progress.append(counts)) == 3
    assert progress == [(3, 3)]
    assert [shop.app.engine.job(job_id) for job_id in ids] == before
    assert shop.app.dead.load(file) == 0  # they have records
    assert shop.app.dead.retry().done == 3


def test_notes_are_exported_and_loaded_and_hide_what_is_redacted(shop: Shop, tmp_path: Path) -> None:
    (job_id,) = shop.die("lost", card="4111-1111")
    row = shop.app.engine.job(job_id)
    assert row is not None
    row = replace(row, notes=(("step:pay", '"with 4111-1111"'),), progress=b'{"done":1}')
    shop.app.dead.discard(before=0)
    assert shop.app.engine.put_dead([row]) == [True]
    for file, reveal in (("shown", True), ("hidden", False)):
        shop.app.dead.export(tmp_path / file, reveal=reveal)
    shop.app.dead.discard(before=0)
    assert shop.app.dead.load(tmp_path / "shown") == 1
    found = shop.app.engine.job(job_id)
    assert found is not None
    assert (found.notes, found.progress) == (row.notes, row.progress)
    hidden = (tmp_path / "hidden").read_text()
    assert "4111-1111" not in hidden
    assert json.loads(hidden)["notes"][0][0] == "step:pay"


def test_an_export_takes_filters(shop: Shop, tmp_path: Path) -> None:
    late, _ = shop.die("late", "lost")
    assert shop.app.dead.export(tmp_path / "f", error="TimeoutError") == 1
    assert json.loads((tmp_path / "f").read_text())["id"] == late


def test_redacted_arguments_are_hidden_and_then_refused_with_their_line(shop: Shop, tmp_path: Path) -> None:
    shop.die("lost", card="4111-1111")
    shop.ship.enqueue(1, "late")  # nothing of it is hidden
    shop.burst()
    file = tmp_path / "dead.jsonl"
    assert shop.app.dead.export(file) == 2
    assert "4111-1111" not in file.read_text()
    shop.app.dead.discard(before=0)
    with pytest.raises(PayloadError, match=r"dead.jsonl line 2: .*card.* reveal=True"):
        shop.app.dead.load(file)
    assert shop.app.dead.count() == 0  # all or nothing


def test_a_payload_that_cannot_be_masked_is_not_shown(shop: Shop, tmp_path: Path) -> None:
    (job_id,) = shop.die("late", card="4111-1111")
    row = shop.app.engine.job(job_id)
    assert row is not None
    edit(shop.app.engine, LeaseRef(job_id, row.fence), '["4111-1111"]', (), None)
    shop.app.dead.export(tmp_path / "f")
    assert "4111-1111" not in (tmp_path / "f").read_text()


def test_a_failed_export_leaves_the_old_file(shop: Shop, tmp_path: Path) -> None:
    shop.die(*["late"] * 501)
    file = tmp_path / "f"
    file.write_text("old")

    def full(done: int, total: int) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        shop.app.dead.export(file, on_progress=full)
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["f"])
    with pytest.raises(OSError):
        shop.app.dead.export(tmp_path / "no" / "f")


def test_a_wrong_line_is_named_and_nothing_is_stored(shop: Shop, tmp_path: Path) -> None:
    shop.die("late")
    file = tmp_path / "f"
    shop.app.dead.export(file, reveal=True)
    shop.app.dead.discard(before=0)
    file.write_text(file.read_text() + "\nnonsense\n")
    with pytest.raises(PayloadError, match="line 3"):
        shop.app.dead.load(file)
    assert shop.app.dead.count() == 0


# -- twins -------------------------------------------------------------------------------------------------


async def twins(shop: Shop, file: Path) -> list[object]:
    dead = shop.app.dead
    late, lost = [info.id for info in reversed((await dead.alist()).items)]
    answers: list[object] = [await dead.acount(), len(await dead.agroups())]
    info: JobInfo = await dead.aedit(late, [1])
    answers += [info.args, await dead.aexport(file, reveal=True), await dead.adiscard(lost), await dead.aload(file)]
    redrive = await dead.aretry(late)
    answers += [(await redrive.ainfo()).done, await redrive.await_("1s")]
    await redrive.astop()
    return [*answers, await dead.aredrives()]


def test_every_method_has_an_async_twin(shop: Shop, tmp_path: Path) -> None:
    import asyncio

    shop.die("late", "lost")
    assert asyncio.run(twins(shop, tmp_path / "f")) == [2, 2, (1,), 2, 1, 1, 1, True, []]


def test_a_job_that_lives_again_is_left_alone_by_what_was_said_of_its_death(shop: Shop) -> None:
    (job_id,) = shop.die("late")
    shop.app.engine.transition(Action.RETRY, [job_id])
    assert shop.app.dead.retry(job_id).total == 0
    assert shop.app.dead.discard(job_id) == 0
    assert shop.states([job_id]) == ["ready"]
