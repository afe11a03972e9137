"""Doctor, check and config: what is wrong, what would be wrong, and where a value comes from."""

from __future__ import annotations

import itertools
from contextlib import closing

import apsw
import pytest
from cli_shop import Shop, register

from windlass.cli.config import written
from windlass.core.clock import SystemClock
from windlass.core.model import NewJob
from windlass.core.work import Want
from windlass.settings import Settings, load_settings
from windlass.settings.values import READERS, TABLES
from windlass.testing.conformance.harness import place

numbers = itertools.count()


def levels(found: object) -> dict[str, str]:
    assert isinstance(found, list)
    return {finding["check"]: finding["level"] for finding in found}


# -- doctor ------------------------------------------------------------------------------------------------


def test_a_healthy_store_has_no_findings(shop: Shop) -> None:
    result = shop.run("doctor")
    assert "Nothing is wrong." in result.stdout
    found = shop.json("doctor")
    assert set(levels(found).values()) == {"ok"}
    assert isinstance(found, list)
    assert list(found[0]) == ["check", "level", "message", "advice"]


def test_ready_jobs_that_nobody_serves_are_an_error(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    shop.enqueue("charge", "[1]", "--queue", "slow", "--in", "1h")
    result = shop.run("doctor", code=1)
    assert "windlass worker -q payments" in result.stdout
    assert "1 error, 1 warning." in result.stdout
    found = levels(shop.json("doctor", code=1))
    assert (found["queue payments"], found["queue slow"]) == ("error", "warning")
    with shop.store() as app:
        register(app)
        assert levels(shop.json("doctor"))["queue payments"] == "ok"


def test_a_paused_queue_and_a_lost_worker_are_warnings(shop: Shop) -> None:
    shop.run("queues", "pause", "payments", "--reason", "bank is down")
    with shop.store() as app:
        gone = register(app)
        app.engine.extend(gone, [], -1_000)
        found = shop.json("doctor")
    assert levels(found)["queue payments"] == "warning"
    assert "bank is down" in str(found)
    assert gone.id in str(found)


def test_a_store_from_the_future_is_an_error(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.store() as app:
        place(app.engine, [NewJob("1", "charge", "payments", "[1,[1],{}]")])
        register(app)
    monkeypatch.setattr(SystemClock, "wall_ms", lambda self: 1_700_000_000_000)
    assert levels(shop.json("doctor", code=1))["clock"] == "error"


def test_settings_that_look_wrong_are_warnings(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_THREAD", "3")
    found = shop.json("doctor")
    assert "WINDLASS_THREAD is ignored (did you mean 'WINDLASS_THREADS'" in str(found)
    assert levels(found)["settings"] == "warning"


def test_an_inherited_url_is_told_with_the_way_to_choose_another(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://me:secret@127.0.0.1:1/0")
    text = shop.run("config", app=False).stderr
    assert "warning: the store is redis://me:" in text
    assert "taken from the environment variable REDIS_URL; to choose another" in text
    assert "set WINDLASS_URL, or url in windlass.toml" in text
    assert "secret" not in text
    unreachable = shop.run("doctor", app=False, code=3).stderr
    assert "taken from the environment variable REDIS_URL" in unreachable
    assert "cannot be reached" in unreachable
    monkeypatch.setenv("WINDLASS_URL", shop.url)
    assert "REDIS_URL" not in shop.run("config", app=False).stderr
    assert "REDIS_URL" not in str(shop.json("doctor", app=False))


def test_a_repair_is_advised_where_it_helps_and_done_when_asked(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    with shop.store() as app:
        info = register(app)
        app.engine.claim(Want(info.id, 1))
        with closing(apsw.Connection(str(shop.folder / "shop.db"))) as db:
            db.execute("DELETE FROM windlass_workers")
        register(app)
        assert "> release them: `windlass doctor --repair`" in shop.run("doctor", code=1).stdout
        assert "1 running job has no worker; 1 released just now" in shop.run("doctor", "--repair").stdout
        assert "--repair" not in shop.run("doctor").stdout
        (job,) = app.jobs()
        assert (job.state, job.attempt, job.errors) == ("ready", 0, ())
        app.engine.extend(info, [], -1_000)
        assert "a live worker takes its jobs back within 10s" in shop.run("doctor").stdout


# -- check -------------------------------------------------------------------------------------------------


def check(shop: Shop, body: str, code: int) -> str:
    module = f"cli_shop_checked_{next(numbers)}"
    shop.write(f"{module}.py", f"from windlass import Windlass\napp = Windlass('memory://')\n{body}\n")
    return shop.run("check", "-A", module, app=False, code=code).stdout


def test_an_application_in_order_passes_and_its_store_is_not_touched(shop: Shop) -> None:
    (shop.folder / "shop.db").unlink()
    assert "2 jobs in cli_shop_jobs" in shop.run("check").stdout
    assert not (shop.folder / "shop.db").exists()
    assert levels(shop.json("check")) == {"jobs": "ok"}


def test_an_application_without_jobs_fails(shop: Shop) -> None:
    assert "has no jobs" in check(shop, "", 1)


def test_an_annotation_that_does_not_resolve_fails(shop: Shop) -> None:
    text = check(shop, "@app.job(name='a')\ndef a(x: 'Missing'): ...", 1)
    assert "job a" in text
    assert "Missing" in text


def test_async_middleware_around_a_sync_job_fails(shop: Shop) -> None:
    middleware = "@app.middleware('execute')\nasync def around(ctx): yield\n"
    assert "around is async" in check(shop, f"{middleware}@app.job(name='a')\ndef a(): ...", 1)
    assert "1 job in" in check(shop, f"{middleware}@app.job(name='a')\nasync def a(): ...", 0)


def test_a_timeout_on_a_thread_is_advice(shop: Shop) -> None:
    assert 'executor="process"' in check(shop, "@app.job(name='a', timeout=3)\ndef a(): ...", 0)
    assert "executor" not in check(shop, "@app.job(name='a', timeout=3, executor='process')\ndef a(): ...", 0)
    assert "executor" not in check(shop, "@app.job(name='a', timeout=3)\nasync def a(): ...", 0)


def test_a_settings_warning_fails(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_THREAD", "3")
    assert "WINDLASS_THREADS" in shop.run("check", code=1).stdout


# -- config ------------------------------------------------------------------------------------------------


def test_config_says_where_each_value_comes_from(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write("windlass.toml", '[windlass]\nkeep_done = "1h"\n')
    monkeypatch.setenv("WINDLASS_THREADS", "3")
    lines = [line.split(maxsplit=2) for line in shop.run("config").stdout.splitlines()]
    assert ["lease", "30s", "argument"] in lines
    assert ["keep_done", "1h", "windlass.toml"] in lines
    assert ["threads", "3", "environment WINDLASS_THREADS"] in lines
    assert ["payload_max", "1MiB", "default"] in lines
    assert [line[0] for line in lines[1:]] == list(Settings.__struct_fields__)


def test_config_masks_a_password(shop: Shop) -> None:
    for option in ([], ["--json"]):
        text = shop.run("config", "--url", "redis://me:secret@host/0", *option, app=False).stdout
        assert "secret" not in text
        assert "redis://me:" in text


def test_config_as_json_has_the_attributes_of_loaded(shop: Shop) -> None:
    found = shop.json("config")
    assert isinstance(found, dict)
    assert list(found) == ["settings", "origin", "file", "warnings"]
    assert found["settings"]["lease"] == 30.0
    assert found["settings"]["payload_max"] == 2**20
    assert found["settings"]["attempts"] == 10
    shop.write("windlass.toml", '[windlass.queues.mail]\nmax_wait = "90s"\n')
    queues = shop.json("config", app=False)["settings"]["queues"]  # type: ignore[index]
    assert queues["mail"]["max_wait"] == 90.0
    assert found["origin"]["lease"] == "argument"


@pytest.mark.parametrize("key", [key for key in READERS if key not in TABLES])
def test_a_value_is_shown_as_one_would_write_it(key: str) -> None:
    value = getattr(load_settings(environ={}).settings, key)
    text = written(key, value)
    plain: object = int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)
    assert READERS[key](plain, key) == value
