"""``windlass dead``: lists, groups, and what may be done to dead jobs."""

from __future__ import annotations

import json
import os
from typing import cast

import pytest
from cli_shop import Shop

from windlass.cli import dead as dead_module
from windlass.core.work import Kind
from windlass.dead.deadlist import DeadGroup
from windlass.dead.watching import RedriveInfo
from windlass.worker.redriver import STEP, Redriver


def dead_jobs(shop: Shop, count: int = 1) -> list[str]:
    ids = [shop.enqueue("charge", f'[{n}, "4111-1111"]') for n in range(count)]
    shop.settle(Kind.DEAD, limit=count)
    return ids


def listed(shop: Shop, *options: str) -> list[str]:
    found = cast("list[dict[str, str]]", shop.json("dead", "ls", *options))
    return [job["id"] for job in found]


def test_ls_is_a_table_with_the_error(shop: Shop) -> None:
    (job_id,) = dead_jobs(shop)
    shop.enqueue("charge", "[1]")
    head, *lines = shop.run("dead", "ls").stdout.splitlines()
    assert head.split() == ["Id", "Job", "Queue", "Died", "Attempts", "Error"]
    (line,) = lines
    assert line.split()[:3] == [job_id, "charge", "payments"]
    assert "ValueError: card declined" in line


def test_ls_filters_and_pages(shop: Shop) -> None:
    first, second = dead_jobs(shop, 2)
    assert listed(shop) == [second, first]
    assert listed(shop, "--name", "charge", "--queue", "payments", "--tag", "money", "--after", "1h") == [second, first]
    assert listed(shop, "--error", "ValueError") == [second, first]
    assert listed(shop, "--name", "remind") == listed(shop, "--before", "1h") == []
    assert listed(shop, "--before", "2020-01-01T00:00:00Z") == []
    result = shop.run("dead", "ls", "--limit", "1")
    cursor = result.stderr.split()[-1]
    assert listed(shop, "--cursor", cursor) == [first]
    assert "no time zone" in shop.run("dead", "ls", "--before", "2020-01-01T00:00:00", code=2).stderr


def test_groups_count_what_jobs_died_of(shop: Shop) -> None:
    ids = dead_jobs(shop, 3)
    (group,) = cast("list[dict[str, object]]", shop.json("dead", "groups"))
    assert list(group) == list(DeadGroup.__dataclass_fields__)
    assert (group["count"], group["error"], group["names"]) == (3, "ValueError", ["charge"])
    head, line = shop.run("dead", "groups").stdout.splitlines()
    assert head.split()[:3] == ["Group", "Count", "Error"]
    assert line.split()[:3] == [str(group["fingerprint"]), "3", "ValueError"]
    assert sorted(listed(shop, "--group", str(group["fingerprint"]))) == sorted(ids)


def test_nothing_is_said_where_nothing_is_dead(shop: Shop) -> None:
    for command in ("ls", "groups", "redrives"):
        result = shop.run("dead", command)
        assert (result.stdout, result.stderr.startswith("No ")) == ("", True)
        assert shop.json("dead", command) == []


def test_show_has_every_error_and_hides_what_is_redacted(shop: Shop) -> None:
    (job_id,) = dead_jobs(shop)
    text = shop.run("dead", "show", job_id).stdout
    assert "ValueError: card declined" in text
    assert "Traceback" in text
    assert "4111-1111" not in text
    assert "4111-1111" in shop.run("dead", "show", job_id, "--reveal").stdout
    assert cast("dict[str, object]", shop.json("dead", "show", job_id))["state"] == "dead"
    assert "not kept here" in shop.run("dead", "show", "never", code=1).stderr
    ready = shop.enqueue("charge", "[1]")
    assert "ready, not dead" in shop.run("dead", "show", ready, code=1).stderr


def test_retry_moves_ids_groups_or_all(shop: Shop) -> None:
    first, second, *_ = dead_jobs(shop, 4)
    assert shop.run("dead", "retry", first).stdout == "1 job retried.\n"
    result = shop.run("dead", "retry", first, second, code=1)
    assert (result.stdout, "1 of 2 ids are not dead" in result.stderr) == ("1 job retried.\n", True)
    answer = cast("dict[str, object]", shop.json("dead", "retry", "--name", "charge", "--limit", "1"))
    assert list(answer) == list(RedriveInfo.__dataclass_fields__)
    assert (answer["total"], answer["done"], answer["state"]) == (1, 1, "done")
    assert shop.run("dead", "retry", "--all", "--yes").stdout == "1 job retried.\n"
    assert listed(shop) == []


@pytest.mark.parametrize("words", [(), ("id", "--all"), ("id", "--name", "charge"), ("--all", "--name", "charge")])
@pytest.mark.parametrize("command", ["retry", "discard"])
def test_what_is_meant_has_to_be_said(shop: Shop, command: str, words: tuple[str, ...]) -> None:
    assert "say which" in shop.run("dead", command, *words, code=2).stderr


def test_retry_at_a_rate_is_left_to_the_workers(shop: Shop) -> None:
    dead_jobs(shop, 4)
    result = shop.run("dead", "retry", "--all", "--yes", "--rate", "8/s", "--detach")
    assert "0 of 4 jobs; the workers go on with it" in result.stdout
    (info,) = cast("list[dict[str, object]]", shop.json("dead", "redrives"))
    assert (info["state"], info["rate"], info["total"]) == ("running", 8, 4)
    with shop.store() as app:
        redriver = Redriver(app.engine, "w1")
        redriver.turn(0.0)
        redriver.turn(STEP)
    assert "running" in shop.run("dead", "redrives").stdout
    (info,) = cast("list[dict[str, object]]", shop.json("dead", "redrives", "--stop", str(info["id"])))
    assert (info["state"], info["done"]) == ("stopped", 2)
    assert "there is no redrive" in shop.run("dead", "redrives", "--stop", "never", code=1).stderr


def test_retry_at_a_rate_waits_for_the_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from windlass.dead.watching import Redrive

    dead_jobs(shop, 4)
    wait = Redrive.wait

    def work(redrive: Redrive, timeout: object = None) -> bool:
        with shop.store() as app:
            redriver, now = Redriver(app.engine, "w1"), 0.0
            while redriver.turn(now) is not None:
                now += STEP
        return wait(redrive, "1s")

    monkeypatch.setattr(Redrive, "wait", work)
    result = shop.run("dead", "retry", "--all", "--yes", "--rate", "100/s")
    assert result.stdout == "4 jobs retried.\n"
    assert "No worker is alive" in result.stderr


def test_an_interrupted_watch_leaves_the_redrive(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from windlass.dead.watching import Redrive

    def interrupt(redrive: Redrive, timeout: object = None) -> bool:
        raise KeyboardInterrupt

    dead_jobs(shop)
    monkeypatch.setattr(Redrive, "wait", interrupt)
    result = shop.run("dead", "retry", "--all", "--yes", "--rate", "100/s", code=130)
    assert "continues; stop it with: windlass dead redrives --stop" in result.stderr
    assert cast("list[dict[str, object]]", shop.json("dead", "redrives"))[0]["state"] == "running"


def test_edit_replaces_arguments_typed(shop: Shop) -> None:
    (job_id,) = dead_jobs(shop)
    assert shop.run("dead", "edit", job_id, "[7]").stdout == f"{job_id} edited, dead\n"
    info = cast("dict[str, object]", shop.json("dead", "edit", job_id, '{"card": "x"}', "--retry"))
    assert (info["state"], info["args"], info["kwargs"]) == ("ready", [7], {"card": "•••"})
    assert "ready, not dead" in shop.run("dead", "edit", job_id, "[7]", code=1).stderr
    remind = shop.enqueue("remind", '["2026-01-01T00:00:00Z"]')
    shop.settle(Kind.DEAD, limit=2)
    assert "edited" in shop.run("dead", "edit", remind, '["2027-01-01T00:00:00Z"]').stdout
    assert "cannot be decoded" in shop.run("dead", "edit", remind, "[1]", code=2).stderr


def test_discard_asks_unless_ids_are_given(shop: Shop) -> None:
    first, *_ = dead_jobs(shop, 3)
    assert shop.run("dead", "discard", first).stdout == "1 job discarded.\n"
    assert "give --yes" in shop.run("dead", "discard", "--all", code=2).stderr
    assert "Nothing was changed" in shop.run("dead", "discard", "--all", code=1, input="n\n").stderr
    assert len(listed(shop)) == 2
    assert shop.json("dead", "discard", "--all", "--yes") == {"discarded": 2}
    assert shop.run("dead", "discard", first, code=1).stdout == "0 jobs discarded.\n"


def test_export_and_load_round_trip(shop: Shop) -> None:
    ids = dead_jobs(shop, 2)
    assert shop.run("dead", "export", "dead.jsonl", "--reveal").stdout == "2 jobs exported to dead.jsonl.\n"
    shop.run("dead", "discard", ids[0])
    assert shop.json("dead", "load", "dead.jsonl") == {"loaded": 1, "present": 1}
    assert shop.run("dead", "load", "dead.jsonl").stdout == "0 jobs loaded; 2 jobs had a record.\n"
    assert sorted(listed(shop)) == sorted(ids)


def test_export_hides_what_is_redacted_and_load_refuses_it(shop: Shop) -> None:
    dead_jobs(shop)
    lines = shop.run("dead", "export", "-").stdout.splitlines()
    assert [json.loads(line)["hidden"] for line in lines] == [["card"]]
    shop.run("dead", "export", "dead.jsonl")
    assert "dead.jsonl line 1" in shop.run("dead", "load", "dead.jsonl", code=2).stderr
    assert "no/f" in shop.run("dead", "export", "no/f", code=2).stderr
    assert "never" in shop.run("dead", "load", "never", code=2).stderr


def test_bulk_work_has_a_bar_on_a_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[int] = []
    dead_jobs(shop, 3)

    class Terminal:
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            bars.append(len(text))
            return len(text)

        def flush(self) -> None:
            pass

    class Sys:
        stderr = Terminal()

    monkeypatch.setattr(dead_module, "sys", Sys)
    shop.run("dead", "retry", "--all", "--yes")
    assert bars
    assert os.environ.get("WINDLASS_URL") is None


def test_check_tells_of_a_rule_that_names_what_nobody_imports(shop: Shop) -> None:
    jobs = shop.folder / "cli_shop_jobs.py"
    jobs.write_text(jobs.read_text() + '\napp.dead.recover(on=["TimeoutError", "stripe.APIErorr"])\n')
    found = cast("list[dict[str, str]]", shop.json("check", code=1))
    (finding,) = [one for one in found if one["check"] == "recover"]
    assert (finding["level"], "stripe.APIErorr" in finding["message"]) == ("warning", True)
