"""``windlass jobs``: lists, the picture of one job, and moves one by one and in bulk."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime

import pytest
from cli_shop import Shop, register
from msgspec.structs import replace

from kit.waiting import PATIENCE
from windlass import JobInfo
from windlass.cli import jobs as jobs_module
from windlass.core.stall import STALL, Stall, encode_stall
from windlass.core.work import PROGRESS, Kind, Note, Outcome, Want
from windlass.jobs.info import JobError, JobStall

FIELDS = list(JobInfo.__dataclass_fields__)


def states(shop: Shop) -> dict[str, int]:
    counts = shop.json("stats")
    assert isinstance(counts, dict)
    return {
        name: number
        for name, number in counts.items()
        if isinstance(number, int) and number and not name.startswith("total_")
    }


# -- ls ----------------------------------------------------------------------------------------------------


def test_ls_is_an_aligned_table_newest_first(shop: Shop) -> None:
    first, second = shop.enqueue("charge", "[1]"), shop.enqueue("remind", '["2026-01-01T00:00:00Z"]', "--in", "1h")
    head, *lines = shop.run("jobs", "ls").stdout.splitlines()
    assert head.split() == ["Id", "Job", "Queue", "State", "Attempt", "Enqueued", "Note"]
    assert [line.split()[:4] for line in lines] == [
        [second, "remind", "default", "scheduled"],
        [first, "charge", "payments", "ready"],
    ]
    assert len({line.index(word) for line, word in zip(lines, ("scheduled", "ready"), strict=True)}) == 1
    assert "due in" in lines[0]


def test_ls_as_json_has_the_attributes_of_job_info(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    found = shop.json("jobs", "ls")
    assert isinstance(found, list)
    assert [list(job) for job in found] == [FIELDS]
    assert datetime.fromisoformat(found[0]["enqueued_at"]).utcoffset() is not None


def test_ls_filters(shop: Shop) -> None:
    charge, remind = shop.enqueue("charge", "[1]"), shop.enqueue("remind", '["2026-01-01T00:00:00Z"]', "--in", "1h")

    def ids(*options: str) -> list[str]:
        found = shop.json("jobs", "ls", *options)
        assert isinstance(found, list)
        return [job["id"] for job in found]

    assert ids("--state", "ready") == ids("--tag", "money") == ids("--queue", "payments") == [charge]
    assert ids("--name", "remind") == [remind]
    assert ids("--name", "remind", "--state", "ready") == []


def test_ls_pages_by_cursor(shop: Shop) -> None:
    first, second = shop.enqueue("charge", "[1]"), shop.enqueue("charge", "[2]")
    page = shop.run("jobs", "ls", "--limit", "1")
    assert second in page.stdout
    assert first not in page.stdout
    cursor = page.stderr.split()[-1]
    assert first in shop.run("jobs", "ls", "--limit", "1", "--cursor", cursor).stdout


def test_an_empty_list_says_which_store_it_looked_at(shop: Shop) -> None:
    result = shop.run("jobs", "ls")
    assert str(shop.folder / "shop.db") in result.stderr
    assert result.stdout == ""
    assert shop.json("jobs", "ls") == []


def test_a_filter_that_names_nothing_gets_the_nearest_spelling(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    assert "did you mean 'charge'" in shop.run("jobs", "ls", "--name", "chrage").stderr
    assert "did you mean 'payments'" in shop.run("jobs", "ls", "--queue", "payment").stderr
    wrong = shop.run("jobs", "cancel", "--state", "ready", "--name", "chrage")
    assert wrong.stdout == "0 jobs cancelled.\n"
    assert "did you mean 'charge'" in wrong.stderr


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Kind.DONE, "took"), (Kind.DEAD, "ValueError: card declined"), (Kind.RETRY, "retry due in"), (Kind.CANCELLED, "")],
)
def test_ls_says_what_one_wants_to_know_of_each_state(shop: Shop, kind: Kind, words: str) -> None:
    shop.enqueue("charge", "[1]")
    shop.settle(kind, delay_ms=600_000)
    assert words in shop.run("jobs", "ls").stdout.splitlines()[1]


def test_ls_shows_what_runs(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    with shop.claimed():
        assert "running" in shop.run("jobs", "ls").stdout


# -- show --------------------------------------------------------------------------------------------------


def test_show_tells_everything_of_a_dead_job(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    shop.settle(Kind.DEAD)
    text = shop.run("jobs", "show", job).stdout
    for words in (job, "payments", "dead, attempt 1 of 10", "ValueError: card declined", "Traceback", "UTC (now)"):
        assert words in text
    found = shop.json("jobs", "show", job)
    assert isinstance(found, dict)
    assert list(found) == FIELDS
    assert list(found["errors"][0]) == list(JobError.__dataclass_fields__)


def test_a_job_that_stalls_is_shown_with_the_line_it_hangs_on(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    with shop.store() as app, shop.claimed() as leases:
        (lease,) = leases
        at = app.clock.wall_ms() + 1
        stall = Stall(at, 90_000, "shop.py:7 in \x9bcharge", ("shop.py:3 in main", "shop.py:7 in charge"))
        app.engine.note([Note(lease.id, lease.fence, STALL, encode_stall(stall))])
        shown = shop.run("jobs", "show", job).stdout
        for words in ("no progress for 1 min 30 s", "shop.py:7 in ", "Stack", "shop.py:3 in main\n"):
            assert words in shown
        assert "\x9b" not in shown
        assert "stalled, started" in shop.run("jobs", "ls").stdout
        assert "no progress for 1 min 30 s, at shop.py:7" in shop.run("explain", job).stdout
        moved = Note(lease.id, lease.fence, STALL, encode_stall(replace(stall, moved_at=at + 5)))
        app.engine.note([moved])
        assert "Got on" in shop.run("jobs", "show", job).stdout
        assert "stalled" not in shop.run("jobs", "ls").stdout
    found = shop.json("jobs", "show", job)
    assert isinstance(found, dict)
    assert list(found["stall"]) == list(JobStall.__dataclass_fields__)


def test_show_tells_the_result_of_a_done_job(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    shop.settle(Kind.DONE, result='{"paid":1}')
    lines = shop.run("jobs", "show", job).stdout.splitlines()
    assert any(line.startswith("Result") and line.endswith('{"paid":1}') for line in lines)


def test_a_redacted_argument_shows_only_when_revealed(shop: Shop) -> None:
    job = shop.enqueue("charge", '[1, "4242-4242"]')
    for command in (["jobs", "show", job], ["jobs", "ls"], ["jobs", "show", job, "--json"]):
        assert "4242" not in shop.run(*command).stdout
    assert "4242-4242" not in shop.run("jobs", "show", job, "--url", shop.url, app=False).stdout
    assert "4242-4242" in shop.run("jobs", "show", job, "--reveal").stdout


def test_watch_follows_a_job_to_its_end(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    with shop.store() as app, shop.claimed() as leases:
        (lease,) = leases

        def go_on() -> None:
            note = Note(lease.id, lease.fence, PROGRESS, '{"done":3,"total":4,"message":"almost"}')
            app.engine.note([note])
            app.engine.settle([Outcome(lease.id, lease.fence, Kind.DONE, result="1")])

        threading.Timer(0.3, go_on).start()
        lines = shop.run("jobs", "watch", job, "--every", "50ms").stdout.splitlines()
    assert "running  attempt 1 of 10" in lines[0]
    assert "done  attempt 1 of 10  took" in lines[-1]
    found = shop.json("jobs", "watch", job)
    assert isinstance(found, dict)
    assert found["state"] == "done"


def test_watch_of_a_job_that_is_dead_or_unknown_is_1(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    shop.settle(Kind.DEAD)
    assert "dead  attempt 1 of 10  ValueError: card declined" in shop.run("jobs", "watch", job, code=1).stdout
    assert "no job nope" in shop.run("jobs", "watch", "nope", code=1).stderr


def test_show_of_an_unknown_id_is_1(shop: Shop) -> None:
    assert "no job nope" in shop.run("jobs", "show", "nope", code=1).stderr


def test_text_of_a_store_cannot_steer_the_terminal(shop: Shop) -> None:
    shop.write(
        "cli_shop_evil.py",
        "from windlass import Windlass\napp = Windlass('sqlite:///shop.db')\n@app.job(name='say')\ndef say(x): ...\n",
    )
    job = shop.run("-A", "cli_shop_evil", "enqueue", "say", '["\\u009b2J\\u202e"]', app=False).stdout.strip()
    shown = shop.run("jobs", "show", job).stdout
    assert "\x9b" not in shown
    assert "\\u009b2J\\u202e" in shown


# -- moves by id -------------------------------------------------------------------------------------------


def test_retry_cancel_and_delete_by_id(shop: Shop) -> None:
    first, second = shop.enqueue("charge", "[1]"), shop.enqueue("charge", "[2]")
    assert shop.run("jobs", "cancel", first, second).stdout == f"{first} cancelled\n{second} cancelled\n"
    assert shop.run("jobs", "retry", first).stdout == f"{first} retried\n"
    assert states(shop) == {"ready": 1, "cancelled": 1}
    assert shop.run("jobs", "delete", second).stdout == f"{second} deleted\n"
    assert states(shop) == {"ready": 1}


def test_a_running_job_is_asked_to_stop(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    with shop.claimed():
        assert shop.run("jobs", "cancel", job).stdout == f"{job} asked to stop\n"


def test_a_move_that_the_state_forbids_is_1_and_the_others_are_made(shop: Shop) -> None:
    first, second = shop.enqueue("charge", "[1]"), shop.enqueue("charge", "[2]")
    shop.run("jobs", "cancel", second)
    result = shop.run("jobs", "retry", first, second, "nope", code=1)
    assert result.stdout == f"{second} retried\n"
    assert f"cannot retry job {first}: it is ready" in result.stderr
    assert "cannot retry job nope: no record" in result.stderr


def test_moves_as_json(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    assert shop.json("jobs", "cancel", job) == [{"id": job, "before": "ready", "applied": True}]
    assert shop.json("jobs", "cancel", "nope", code=1) == [{"id": "nope", "before": None, "applied": False}]


# -- moves in bulk -----------------------------------------------------------------------------------------


def test_a_bulk_move_goes_on_over_many_batches(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "BATCH", 2)
    for number in range(5):
        shop.enqueue("charge", f"[{number}]")
    assert shop.run("jobs", "cancel", "--state", "ready", "--yes").stdout == "5 jobs cancelled.\n"
    assert shop.json("jobs", "retry", "--state", "cancelled", "--yes") == {
        "action": "retry",
        "applied": 5,
        "refused": 0,
    }
    assert states(shop) == {"ready": 5}


def test_a_bulk_move_keeps_to_its_filters(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    shop.enqueue("charge", "[1]", "--queue", "slow")
    shop.enqueue("remind", '["2026-01-01T00:00:00Z"]', "--queue", "slow")
    assert shop.run(
        "jobs", "cancel", "--state", "ready", "--name", "charge", "--queue", "slow", "--yes"
    ).stdout.startswith("1 ")
    assert states(shop) == {"ready": 2, "cancelled": 1}


def test_deleting_in_bulk_asks_first(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    delete = ["jobs", "delete", "--state", "ready"]
    asked = shop.run(*delete, input="n\n", code=1)
    assert "Delete all ready jobs in sqlite" in asked.stderr
    assert "--yes" in shop.run(*delete, input="", code=2).stderr
    assert states(shop) == {"ready": 1}
    assert shop.run(*delete, input="y\n").stdout == "1 job deleted.\n"
    shop.enqueue("charge", "[1]")
    assert shop.run(*delete, "--yes").stdout == "1 job deleted.\n"
    assert states(shop) == {}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["retry"], "give ids, or --state"),
        (["retry", "x", "--state", "dead"], "give ids, or --state"),
        (["cancel", "x", "--queue", "q"], "go with --state"),
        (["retry", "--state", "done"], "dead, cancelled, scheduled"),
        (["delete", "--state", "running", "--yes"], "delete applies to jobs"),
        (["cancel", "--state", "raedy"], "did you mean 'ready'"),
    ],
)
def test_a_move_of_unclear_jobs_is_refused(shop: Shop, command: list[str], words: str) -> None:
    assert words in shop.run("jobs", *command, code=2).stderr


# -- on a terminal -----------------------------------------------------------------------------------------


def on_terminal(shop: Shop, *command: str) -> str:
    """Run the command with a terminal for stdout and stderr; give what it showed."""
    ours, theirs = os.openpty()
    process = shop.popen("-A", "cli_shop_jobs", *command, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(ours)
    assert process.wait(PATIENCE) == 0, shown
    return shown.decode()


@pytest.mark.parametrize(("verb", "state"), [("cancel", "ready"), ("retry", "scheduled")])
def test_a_move_of_all_jobs_in_a_state_asks_first(shop: Shop, verb: str, state: str) -> None:
    shop.enqueue("charge", "[1]", *(["--in", "1h"] if state == "scheduled" else []))
    move = ["jobs", verb, "--state", state]
    assert f"{verb.capitalize()} all {state} jobs in sqlite" in shop.run(*move, input="n\n", code=1).stderr
    assert "--yes" in shop.run(*move, input="", code=2).stderr
    assert states(shop) == {state: 1}
    assert shop.run(*move, input="y\n").stdout.startswith("1 job")
    assert states(shop) != {state: 1}


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "show"], ["jobs", "cancel"], ["jobs", "retry"], ["jobs", "delete"], ["jobs", "watch"], ["explain"],
        ["jobs", "ls", "--name"], ["jobs", "ls", "--tag"], ["jobs", "ls", "--queue"], ["dead", "show"],
        ["dead", "retry"], ["dead", "discard"], ["dead", "ls", "--group"], ["queues", "pause"], ["workers", "stop"],
        ["circuits", "open"], ["enqueue", "charge", "[1]", "--id"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_argument_that_is_no_text_is_an_error(shop: Shop, command: list[str]) -> None:
    """What a shell passes on for bytes that are not UTF-8."""
    shop.enqueue("charge", "[1]")
    assert "windlass: " in shop.run(*command, "\udcff", code=2).stderr


def test_a_done_job_that_never_ran_shows_why_and_no_length(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    with shop.store() as app:
        info = register(app)
        (lease,) = app.engine.claim(Want(info.id, 1)).leases
        app.engine.settle([Outcome(lease.id, lease.fence, Kind.DONE, reason="duplicate of j1")])
    assert "duplicate of j1" in shop.run("jobs", "ls").stdout
    assert "unknown time" not in shop.run("jobs", "ls").stdout


def test_a_terminal_gets_the_same_table(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    shown = on_terminal(shop, "jobs", "ls")
    assert "Enqueued" in shown
    assert job in shown


def test_a_terminal_sees_the_progress_of_a_bulk_move(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    shown = on_terminal(shop, "jobs", "cancel", "--state", "ready", "--yes")
    assert "1/1" in shown
    assert "1 job cancelled." in shown
    assert json.loads(shop.run("stats", "--json").stdout)["cancelled"] == 1
