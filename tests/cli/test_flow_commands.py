"""``windlass workflows`` and ``windlass batches``: what is stored is shown, followed, drawn and moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from cli_shop import Shop, register
from click.testing import Result
from terminal import Terminal

from dead_shop import worker_of
from kit.waiting import until
from servers import RedisServer
from windlass import Windlass, Workflow
from windlass.core.work import Want


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as server:
        yield server


class Mill:
    """An application in this process, and the command run on its store."""

    def __init__(self, shop: Shop, url: str) -> None:
        self.shop = shop
        self.url = url
        self.app = Windlass(url, attempts=1, reap="50ms")
        self.broken = {"reserve"}

        @self.app.job(name="work")
        def work(what: str = "") -> str:
            if what in self.broken:
                raise ValueError(f"no {what}")
            return what

        @self.app.job(name="list")
        def list_(number: int) -> list[str]:
            return [str(at) for at in range(number)]

        self.work, self.list = work, list_
        self.later = work.options(delay="1h")

    def run(self, *args: str, code: int = 0) -> Result:
        return self.shop.run("--url", self.url, *args, code=code, app=False)

    def say(self, *args: str, code: int = 0) -> str:
        return self.run(*args, code=code).stdout

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self.say(*args, "--json", code=code))

    def burst(self) -> None:
        worker_of(self.app, burst=True).run()

    def order(self, id: str = "order-1", *, when: str = "any_failed") -> Workflow:
        order = Workflow("order", id=id)
        pay = order.add(self.work.bind("pay"), name="pay")
        reserve = order.add(self.work.bind("reserve"), name="reserve")
        order.add(self.work.bind("ship"), name="ship", after=[pay, reserve])
        order.add(self.later.bind("refund"), name="refund", after=[pay, reserve], when=when)  # type: ignore[arg-type]
        self.app.start(order)
        return order


@pytest.fixture(params=["sqlite", "redis"])
def mill(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Mill]:
    url = shop.url
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        with server.client() as client:
            client.flushall()
        url = server.url
    made = Mill(shop, url)
    with made.app:
        yield made


def cells(text: str, first: str) -> list[str]:
    """The row of a table that begins so, without what depends on time."""
    (line,) = [line for line in text.splitlines() if line.startswith(first)]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_workflows_are_listed(mill: Mill) -> None:
    assert "No workflows to show" in mill.run("workflows", "ls").stderr
    mill.order("order-1")
    mill.burst()
    mill.order("order-2")
    text = mill.say("workflows", "ls")
    assert text.splitlines()[0].split() == ["Id", "Workflow", "State", "Ended", "Started", "Note"]
    found = cells(text, "order-1")
    assert (found[:4], found[5]) == (["order-1", "order", "running", "3 of 4"], next(iter(found[5:])))
    assert found[5].startswith("dead: reserve; about ")
    assert cells(text, "order-2")[:4] == ["order-2", "order", "running", "0 of 4"]
    assert [info["id"] for info in mill.json("workflows", "ls", "--state", "running")] == ["order-1", "order-2"]
    mill.app.workflow("order-1").cancel()
    (info,) = mill.json("workflows", "ls", "--state", "failed")
    assert (info["id"], info["state"], info["eta"]) == ("order-1", "failed", None)
    assert info["progress"] == {"total": 4, "done": 1, "dead": 1, "cancelled": 2}
    assert cells(mill.say("workflows", "ls"), "order-1")[-1].startswith("dead: reserve; took ")
    refused = mill.run("workflows", "ls", "--state", "faild", code=2)
    assert "did you mean 'failed'" in refused.stderr


def test_a_list_goes_on_with_a_cursor_and_shows_no_empty_page(mill: Mill) -> None:
    for number in range(5):
        mill.order(f"order-{number}")
    first = mill.run("workflows", "ls", "--limit", "2")
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["Id", "order-0", "order-1"]
    cursor = first.stderr.rsplit(maxsplit=1)[1]
    assert "order-2" in mill.say("workflows", "ls", "--limit", "2", "--cursor", cursor)
    mill.app.workflow("order-4").cancel()
    (info,) = mill.json("workflows", "ls", "--state", "cancelled", "--limit", "1")
    assert info["id"] == "order-4"


def test_stalled_workflows_are_listed_with_the_reason(mill: Mill) -> None:
    mill.order("order-1")
    mill.burst()
    lost = Workflow("lost", id="lost-1")
    first = lost.add(mill.later.bind(), name="first")
    lost.add(mill.work.bind(), name="second", after=first)
    mill.app.start(lost)
    assert mill.json("workflows", "ls", "--stalled") == []
    stall(mill)
    found = cells(mill.say("workflows", "ls", "--stalled"), "slow-1")
    assert found[-1].startswith("stalled: no step has ended for ")
    assert "order-1" not in mill.say("workflows", "ls", "--stalled")
    assert "Stalled   no step has ended for " in mill.say("workflows", "show", "slow-1")


def stall(mill: Mill) -> None:
    """A workflow that has not moved for longer than it says it may."""
    slow = Workflow("slow", id="slow-1", stall_after="1ms")
    slow.add(mill.later.bind(), name="only")
    mill.app.start(slow)
    until(lambda: mill.app.workflow("slow-1").info().stalled)


def test_a_workflow_is_shown_with_who_waits_for_whom(mill: Mill) -> None:
    mill.order()
    text = mill.say("workflows", "show", "order-1")
    assert "Workflow  order\nState     running\nProgress  0 %, 0 of 4 steps\n" in text
    assert cells(text, "pay")[:2] == ["pay", "ready"]
    assert cells(text, "ship")[1::2] == ["blocked", "pay, reserve"]
    assert cells(text, "ship")[-1] == "waits for pay, reserve"
    assert cells(text, "refund")[-2:] == ["any_failed: pay, reserve", "waits for pay, reserve"]
    mill.burst()
    text = mill.say("workflows", "show", "order-1")
    assert "Progress  75 %, 3 of 4 steps: 1 done, 1 dead, 1 skipped; about " in text
    assert cells(text, "reserve")[1] == "dead"
    assert cells(text, "reserve")[-1] == "ValueError: no reserve"
    assert cells(text, "ship") == ["ship", "skipped", "pay, reserve"]
    assert cells(text, "refund")[1] == "scheduled"
    info = mill.json("workflows", "show", "order-1")
    step = info["steps"][1]
    assert (step["name"], step["state"], step["error"]) == ("reserve", "dead", "ValueError: no reserve")
    assert info["eta"] > 0
    gone = mill.run("workflows", "show", "order-9", code=1)
    assert "there is no workflow 'order-9'" in gone.stderr


def test_steps_made_by_steps_and_of_workflows_stand_below_them(mill: Mill) -> None:
    order, pack = Workflow("order", id="order-1"), Workflow("pack")
    pack.add(mill.later.bind(), name="seal", after=pack.add(mill.work.bind(), name="wrap"))
    order.expand(mill.work.bind(), over=order.add(mill.list.bind(30)).result, name="each")
    order.add(pack)
    mill.app.start(order)
    text = mill.say("workflows", "show", "order-1")
    assert [line for line in text.splitlines() if "─" in line] == []
    mill.burst()
    text = mill.say("workflows", "show", "order-1")
    tree = [line.split("  ")[0] for line in text.splitlines() if "─" in line]
    assert tree == [
        *(f"├─ each/{number:02}" for number in range(1, 11)), "└─ ... and 20 more done", "├─ wrap", "└─ seal",
    ]  # fmt: skip
    inner = mill.app.workflow("order-1").steps()[2].workflow
    assert cells(text, "pack")[-1] == f"workflow {inner}, waits for those below it"
    assert "├─ each/30" not in text
    assert "├─ each/29" in mill.say("workflows", "show", "order-1", "--all")
    assert "Part of   workflow order-1" in mill.say("workflows", "show", inner)
    assert [info["id"] for info in mill.json("workflows", "ls")] == ["order-1"]


def test_a_step_that_waits_at_a_gate_says_at_which(mill: Mill) -> None:
    stripe = mill.app.circuit("stripe")
    stripe.open()
    order = Workflow("order", id="order-1")

    @mill.app.job(name="charge", circuit=stripe)
    def charge() -> None: ...

    order.add(charge.bind())
    mill.app.start(order)
    mill.burst()
    assert cells(mill.say("workflows", "show", "order-1"), "charge")[-1] == "waits at circuit:stripe"
    assert mill.app.workflow("order-1").steps()[0].waits_for == ("circuit:stripe",)


def test_jobs_that_wait_for_others_are_counted_together(mill: Mill) -> None:
    for number in range(3):
        mill.order(f"order-{number}")
    (queue,) = mill.json("queues", "ls")
    assert queue["blocked_by"] == {"other jobs": 6}
    assert "6 wait for other jobs" in mill.say("stats")


def test_a_workflow_is_drawn_for_documents(mill: Mill) -> None:
    mill.order()
    picture = mill.say("workflows", "show", "order-1", "--mermaid")
    assert picture.startswith('flowchart TD\n    n1["pay<br/>ready"]:::ready\n')
    assert "    n1 -->|any_failed| n4\n" in picture
    picture = mill.say("workflows", "show", "order-1", "--dot")
    assert picture.startswith('digraph "order" {\n')
    assert '    n1 -> n4 [label="any_failed"];\n' in picture
    for wrong in (["--mermaid", "--dot"], ["--mermaid", "--json"], ["--dot", "--watch"]):
        assert "--mermaid and --dot" in mill.run("workflows", "show", "order-1", *wrong, code=2).stderr


def test_a_name_cannot_steer_the_terminal(mill: Mill) -> None:
    order = Workflow("or\x1b[31mder\n", id="order-1")
    order.add(mill.work.bind(), name="a\u202eb")
    mill.app.start(order)
    mill.burst()
    for options in ([], ["--watch"], ["--mermaid"], ["--dot"], ["--json"]):
        text = mill.say("workflows", "show", "order-1", *options)
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "\x1b" not in mill.say("workflows", "ls")


def test_watching_says_each_change_until_the_end(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    mill.broken.clear()
    order = Workflow("order", id="order-1")
    pack = Workflow("pack")
    pack.add(mill.work.bind(), name="wrap")
    order.add(mill.work.bind("ship"), name="ship", after=order.add(pack))
    mill.app.start(order)
    told = watched(mill, monkeypatch, "workflows", "show", "order-1")
    assert told[0] == "order-1  running  0 %, 0 of 2 steps"
    assert told[-1] == "order-1  succeeded  100 %, 2 of 2 steps: 2 done"
    assert {"pack > wrap  done", "ship  done"} <= set(told)
    assert len(told) == 5
    mill.broken.add("reserve")
    mill.order("order-2", when="finished")
    mill.burst()
    mill.app.retry(["order-2:refund"])
    told = watched(mill, monkeypatch, "workflows", "show", "order-2", code=1)
    assert told[-1].startswith("order-2  failed  100 %, 4 of 4 steps")
    assert mill.json("workflows", "show", "order-2", "--watch", code=1)["state"] == "failed"


def watched(mill: Mill, monkeypatch: pytest.MonkeyPatch, *args: str, code: int = 0) -> list[str]:
    """What watching says while the jobs run between two looks, without the times and what is shown at the end."""
    monkeypatch.setattr("windlass.cli.flows.time", SimpleNamespace(sleep=lambda seconds: mill.burst()))
    text = mill.say(*args, "--watch", code=code)
    return [line[10:] for line in text.splitlines() if line[2:3] == ":"]


def test_a_workflow_is_cancelled_once(mill: Mill) -> None:
    mill.order()
    assert mill.say("workflows", "cancel", "order-1") == "order-1 cancelled\n"
    again = mill.run("workflows", "cancel", "order-1", code=1)
    assert "workflow order-1 has ended already: cancelled" in again.stderr
    mill.order("order-2")
    assert mill.json("workflows", "cancel", "order-2")["state"] == "cancelled"
    assert "there is no workflow" in mill.run("workflows", "cancel", "order-3", code=1).stderr


def test_cancelling_names_the_steps_that_run(mill: Mill) -> None:
    mill.order()
    assert mill.app.engine.claim(Want(register(mill.app).id, 1)).leases
    assert mill.say("workflows", "cancel", "order-1") == "order-1 asked to stop; 1 step runs: pay\n"


def test_dead_steps_are_retried_by_name_or_all(mill: Mill) -> None:
    mill.broken |= {"pay"}
    mill.order()
    mill.burst()
    refused = mill.run("workflows", "retry", "order-1", "ship", code=1)
    assert "step 'ship' is skipped; a dead one can be retried" in refused.stderr
    assert "did you mean 'reserve'" in mill.run("workflows", "retry", "order-1", "reserv", code=2).stderr
    assert mill.say("workflows", "retry", "order-1", "pay") == "order-1: pay runs again\n"
    mill.burst()
    mill.broken.clear()
    assert mill.say("workflows", "retry", "order-1") == "order-1: pay, reserve run again\n"
    mill.burst()
    assert cells(mill.say("workflows", "show", "order-1"), "ship")[1] == "done"
    assert "has no dead step" in mill.run("workflows", "retry", "order-1", code=1).stderr


def test_a_step_that_waits_is_skipped(mill: Mill) -> None:
    mill.order()
    assert mill.say("workflows", "skip", "order-1", "pay") == "order-1: pay skipped\n"
    info = mill.json("workflows", "show", "order-1")
    assert [step["state"] for step in info["steps"]] == ["skipped", "ready", "skipped", "blocked"]
    assert cells(mill.say("workflows", "show", "order-1"), "pay")[-1] == "skipped by hand"
    assert "one that waits can be skipped" in mill.run("workflows", "skip", "order-1", "pay", code=1).stderr


def test_a_job_shows_the_workflow_and_the_batches_that_it_belongs_to(mill: Mill) -> None:
    mill.order()
    with mill.app.batch("newsletter", id="news") as batch:
        batch.add(call := mill.work.bind("pay"))
    assert "Workflow   order (order-1)\nStep       ship\n" in mill.say("jobs", "show", "order-1:ship")
    assert "Batch      newsletter (news)\n" in mill.say("jobs", "show", call.id)
    mill.burst()
    shown = mill.say("dead", "show", "order-1:reserve")
    assert "Workflow   order (order-1)\nStep       reserve\n" in shown
    found = mill.json("jobs", "show", "order-1:reserve")
    assert (found["workflow"], found["step"], found["batches"]) == ("order-1", "reserve", [])
    text = mill.say("explain", "order-1:ship")
    assert "It was to run when all have succeeded: 'reserve' (dead)." in text


# -- batches ---------------------------------------------------------------------------------------------------


def test_batches_are_listed_and_shown(mill: Mill) -> None:
    assert "No batches to show" in mill.run("batches", "ls").stderr
    with mill.app.batch("newsletter", id="news", on_success=mill.work.bind("done")) as batch:
        batch.add(mill.work.bind("pay"))
        batch.add(mill.work.bind("reserve"))
        batch.add(mill.later.bind())
        with batch.batch("inner", id="inner"):
            pass
        assert cells(mill.say("batches", "ls"), "news")[:3] == ["news", "newsletter", "open"]
        assert "State     open, it takes more jobs\nProgress  no jobs\n" in mill.say("batches", "show", "news")
    mill.burst()
    assert cells(mill.say("batches", "ls"), "news")[:5] == ["news", "newsletter", "sealed", "2 of 3", "1"]
    text = mill.say("batches", "show", "news")
    assert "State     sealed\nProgress  66 %, 2 of 3 jobs: 1 done, 1 dead; about " in text
    assert cells(text, "news:on_success")[1:4] == ["work", "default", "cancelled"]
    info = mill.json("batches", "show", "news")
    assert (info["id"], info["sealed"], info["callbacks"]) == ("news", True, ["news:on_success"])
    assert info["eta"] > 0
    assert mill.json("batches", "ls") == [mill.json("batches", "show", "inner"), info]
    assert "Part of   batch news\n" in mill.say("batches", "show", "inner")
    first = mill.run("batches", "ls", "--limit", "1")
    cursor = first.stderr.rsplit(maxsplit=1)[1]
    assert cells(mill.say("batches", "ls", "--limit", "1", "--cursor", cursor), "news")
    assert "there is no batch 'nwes'" in mill.run("batches", "show", "nwes", code=1).stderr


def test_a_batch_is_watched_until_it_ends(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    with mill.app.batch("newsletter", id="news") as batch:
        batch.add(mill.work.bind("pay"))
    told = watched(mill, monkeypatch, "batches", "show", "news")
    assert told[-1] == "news  ended  100 %, 1 of 1 job: 1 done"
    with mill.app.batch("newsletter", id="bad") as batch:
        batch.add(mill.work.bind("reserve"))
    mill.burst()
    assert mill.json("batches", "show", "bad", "--watch", code=1)["progress"]["dead"] == 1


# -- on a terminal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mill", ["sqlite"], indirect=True)
def test_a_watched_workflow_is_drawn_until_it_ends_and_then_shown(mill: Mill) -> None:
    mill.broken.clear()
    order = Workflow("order", id="order-1")
    many = [order.add(mill.work.bind(), name=f"first-{number}") for number in range(40)]
    order.add(mill.work.bind("ship"), name="last", after=many)
    mill.app.start(order)
    with closing(Terminal(mill.shop, "workflows", "show", "order-1", "--watch")) as terminal:
        terminal.until(terminal.frame)
        frame = terminal.frame()
        assert frame is not None
        assert frame[0] == "order order-1: running"
        assert len(frame) <= 24
        assert all(len(line) <= 80 for line in frame)
        assert any("more" in line for line in frame)
        for columns, rows in ((132, 60), (40, 6), (1, 1)):
            terminal.resize(columns, rows)
            terminal.frames_from_now()
            frame = terminal.frame()
            assert frame is not None
            assert len(frame) <= rows
            assert all(len(line) <= columns for line in frame)
        mill.burst()
        assert terminal.told() == "0"
        assert terminal.restored()
        assert b"succeeded" in terminal.seen.split(b"\x1b[?1049l")[-1]


@pytest.mark.parametrize("mill", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("key", "told"), [("q", ["0"]), ("\x03", ["", "130"])])
def test_a_key_ends_the_watching_and_the_workflow_goes_on(mill: Mill, key: str, told: list[str]) -> None:
    mill.order()
    with closing(Terminal(mill.shop, "workflows", "show", "order-1", "--watch")) as terminal:
        terminal.until(terminal.frame)
        terminal.press(key)
        assert [terminal.told() for _ in told] == told
        assert terminal.restored()
    assert mill.app.workflow("order-1").state == "running"
