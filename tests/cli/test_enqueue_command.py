"""``windlass enqueue``: the checks of code in a shell, and waiting for a result."""

from __future__ import annotations

import json

import pytest
from cli_shop import MODULE, Shop

from kit.waiting import PATIENCE
from windlass import JobInfo, State
from windlass.core.work import Kind, Want, WorkerInfo


def stored(shop: Shop, job_id: str) -> JobInfo:
    with shop.store() as app:
        info = app.get(job_id, reveal=True)
    assert info is not None
    return info


def test_a_list_is_positional_and_an_object_is_keywords(shop: Shop) -> None:
    by_place = stored(shop, shop.enqueue("charge", "[42]"))
    by_name = stored(shop, shop.enqueue("charge", '{"payment_id": 42, "card": "4242"}'))
    assert (by_place.args, by_place.kwargs) == ((42,), {})
    assert (by_name.args, by_name.kwargs) == ((), {"payment_id": 42, "card": "4242"})


def test_the_options_of_the_definition_hold(shop: Shop) -> None:
    info = stored(shop, shop.enqueue("charge", "[42]"))
    assert (info.queue, info.tags, info.state, info.max_attempts) == ("payments", ("money",), State.READY, 10)


def test_the_guards_of_the_definition_hold(shop: Shop) -> None:
    shop.write(
        "guarded_jobs.py",
        "from windlass import Once, Rate, Unique, Windlass\n"
        'app = Windlass("sqlite:///shop.db")\n'
        'app.circuit("bank")\n'
        '@app.job(name="pay", once=Once("pay:{n}"), unique=Unique("{n}"), circuit="bank",\n'
        '         limits=Rate("5/s", key="k"))\n'
        "def pay(n: int) -> None: ...\n",
    )
    command = ["-A", "guarded_jobs", "--json", "enqueue", "pay", "[7]"]
    first, second = (json.loads(shop.run(*command, app=False).stdout) for _ in range(2))
    assert (second["id"], second["duplicate"]) == (first["id"], True)
    with shop.store() as app:
        app.engine.extend(WorkerInfo("w", "g", "h", 1, "*", 1, "1", 0), (), 60_000)
        (lease,) = app.engine.claim(Want("w", 1)).leases
    assert [guard.gate for guard in lease.guards] == ["once:pay:7", "circuit:bank", "rate:k"]


def test_text_becomes_what_the_annotation_says(shop: Shop) -> None:
    assert stored(shop, shop.enqueue("remind", '["2026-01-02T03:04:05+02:00"]')).args == ("2026-01-02T03:04:05+02:00",)
    assert "'when'" in shop.run("enqueue", "remind", '["tomorrow"]', code=2).stderr


def test_options_of_the_call(shop: Shop) -> None:
    first = shop.enqueue("charge", "[1]", "--queue", "slow", "--id", "pay-1", "--priority", "-5", "--in", "5m")
    info = stored(shop, first)
    assert (info.id, info.queue, info.state) == ("pay-1", "slow", State.SCHEDULED)
    assert 299 <= (info.run_at - info.enqueued_at).total_seconds() <= 301
    at = stored(shop, shop.enqueue("charge", "[1]", "--at", "2031-01-02T03:04:05Z"))
    assert at.run_at.isoformat() == "2031-01-02T03:04:05+00:00"


def test_the_same_id_twice_is_stored_once_and_told(shop: Shop) -> None:
    shop.enqueue("charge", "[1]", "--id", "pay-1")
    again = shop.run("enqueue", "charge", "[1]", "--id", "pay-1")
    assert again.stdout == "pay-1\n"
    assert "exists already" in again.stderr
    assert shop.json("enqueue", "charge", "[1]", "--id", "pay-1") == {"id": "pay-1", "duplicate": True}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["chrage", "[1]"], "did you mean 'charge'"),
        (["charge", "[1,"], "not valid JSON"),
        (["charge", "42"], "single value"),
        (["charge", "[" * 3_000], "nested more than 64 deep"),
        (["charge", "[" * 3_000 + "]" * 3_000], "nested more than 64 deep"),
        (["charge", '["\udcff"]'], "not valid JSON"),
        (["charge", '["x"]'], "payment_id"),
        (["charge", "[]"], "payment_id"),
        (["charge", "[1, 2, 3]"], "signature"),
        (["charge", '{"payment_id": 1, "crad": "x"}'], "crad"),
        (["charge", "[1]", "--queue", "a b"], "queue"),
        (["charge", "[1]", "--in", "soon"], "soon"),
        (["charge", "[1]", "--at", "soon"], "--at"),
        (["charge", "[1]", "--at", "2031-01-02T03:04"], "no time zone"),
        (["charge", "[1]", "--at", "2031-01-02T03:04Z", "--in", "5m"], "delay and at"),
        (["charge", "[1]", "--priority", "5000"], "priority"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_stored(shop: Shop, command: list[str], words: str) -> None:
    assert words in shop.run("enqueue", *command, code=2).stderr
    assert shop.json("jobs", "ls") == []


def test_a_store_in_memory_is_refused(shop: Shop) -> None:
    shop.write("cli_shop_memory.py", MODULE.format(lease="30s").replace("sqlite:///shop.db", "memory://"))
    result = shop.run("enqueue", "charge", "[1]", "-A", "cli_shop_memory", app=False, code=2)
    assert "lives in one process" in result.stderr


# -- waiting -----------------------------------------------------------------------------------------------


def waited(shop: Shop, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an enqueue that waits, as a process of its own."""
    process = shop.popen("-A", "cli_shop_jobs", "enqueue", "charge", "[1]", "--wait", *options)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_waiting_prints_id_and_result(shop: Shop) -> None:
    with shop.worker(Kind.DONE, '{"paid":1}'):
        code, text, _ = waited(shop, "--id", "a")
        code_of_json, answer, _ = waited(shop, "--id", "b", "--json")
    assert (code, text, code_of_json) == (0, 'a\n{"paid":1}\n', 0)
    assert json.loads(answer) == {"id": "b", "duplicate": False, "state": "done", "result": {"paid": 1}}


@pytest.mark.parametrize(("kind", "words"), [(Kind.DEAD, "ValueError: card declined"), (Kind.CANCELLED, "cancelled")])
def test_waiting_for_a_job_that_fails_is_1(shop: Shop, kind: Kind, words: str) -> None:
    with shop.worker(kind):
        code, _, err = waited(shop)
        code_of_json, answer, _ = waited(shop, "--json")
    assert (code, code_of_json) == (1, 1)
    assert words in err
    assert json.loads(answer)["state"] == kind.value


def test_waiting_without_a_live_worker_is_69(shop: Shop) -> None:
    shop.write("cli_shop_short.py", MODULE.format(lease="200ms"))
    result = shop.run("-A", "cli_shop_short", "enqueue", "charge", "[1]", "--wait", app=False, code=69)
    assert "windlass worker -q payments" in result.stderr
    assert stored(shop, result.stdout.strip()).state is State.READY
