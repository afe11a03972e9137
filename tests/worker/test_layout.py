"""Pools in processes, from options and settings; and what is refused, with the line to blame."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.errors import ConfigError
from windlass.settings import Settings, load_settings
from windlass.worker.layout import Crew, PoolPlan, alone_plan, lay_out, serves

LAYOUT = """\
[windlass.pools]
critical = { threads = 2 }
default = { threads = 5 }
low = { threads = 2 }
mailers = { processes = 1 }
"""


def settings(folder: Path, toml: str) -> Settings:
    (folder / "windlass.toml").write_text(toml)
    (folder / ".git").mkdir(exist_ok=True)
    return load_settings(environ={}, start=folder).settings


def pool(name: str, slots: int, *queues: str) -> PoolPlan:
    return PoolPlan(name, queues or (name,), slots, slots)


def test_four_lines_of_settings_are_a_layout(tmp_path: Path) -> None:
    crews = lay_out(settings(tmp_path, LAYOUT), (), strict=False, pools=())
    assert crews == (
        Crew("common", 1, (pool("critical", 2), pool("default", 5), pool("low", 2))),
        Crew("mailers", 1, (PoolPlan("mailers", ("mailers",), 10, 100),)),
    )
    assert [crew.slots for crew in crews] == [18, 110]


def test_plain_serves_every_queue_with_all_slots() -> None:
    assert lay_out(Settings(), (), strict=False, pools=()) == (Crew("common", 1, (PoolPlan("common", (), 10, 100),)),)


def test_pools_stand_beside_the_slots_of_q_and_alone_without_it() -> None:
    beside = lay_out(Settings(processes=2), ("a=2,b",), strict=False, pools=("critical:2", "x:y:3"))
    assert beside == (
        Crew("common", 2, (PoolPlan("common", ("a=2,b",), 10, 100), pool("critical", 2), pool("x:y", 3))),
    )
    assert lay_out(Settings(), (), strict=False, pools=("critical:2",)) == (Crew("common", 1, (pool("critical", 2),)),)


def test_the_command_line_replaces_the_pools_of_the_settings_or_picks_from_them(tmp_path: Path) -> None:
    found = settings(tmp_path, LAYOUT)
    assert [crew.name for crew in lay_out(found, ("a",), strict=False, pools=())] == ["common"]
    (crew,) = lay_out(found, (), strict=False, pools=("mailers",))
    assert (crew.name, crew.processes, [one.name for one in crew.pools]) == ("mailers", 1, ["mailers"])
    with pytest.raises(ConfigError, match=r"'mailer'.*did you mean 'mailers'"):
        lay_out(found, (), strict=False, pools=("mailer",))


def test_the_lone_process_serves_what_any_pool_serves(tmp_path: Path) -> None:
    plan = alone_plan(lay_out(settings(tmp_path, LAYOUT), (), strict=False, pools=()))
    assert (plan.queues, plan.threads, plan.async_slots) == (("critical", "default", "low", "mailers"), 1, 1)
    assert alone_plan(lay_out(Settings(), (), strict=False, pools=())).queues == ("*",)


def test_a_paused_queue_is_left_alone_by_every_pool(tmp_path: Path) -> None:
    found = settings(tmp_path, '[windlass.queues.mail]\npaused = "server is down"\n')
    crews = lay_out(found, (), strict=False, pools=())
    assert crews[0].pools[0].without == ("mail",)
    assert not serves(crews, "mail")
    assert serves(crews, "other")


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        (["a:0"], "'a:0' has no slots"),
        (["a=0:2"], "weight is a whole number from 1"),
        (["a:2", "b,a:3"], "'b,a:3': queue 'a' is served by --pool 'a:2' too"),
        (["report-*:2", "report-daily:3"], "served by --pool 'report-\\*:2' too"),
        (["a b:2"], "not valid"),
    ],
)
def test_a_wrong_pool_is_refused(pools: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lay_out(Settings(), (), strict=False, pools=pools)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[windlass.pools]\na = { threads = 2 }\nb = { queues = ['a'], threads = 1 }",
            "line 3.*'a' is served by pool 'a'",
        ),
        (
            "[windlass.pools.a]\nprocesses = 1\n[windlass.pools.b]\nprocesses = 1\nqueues = ['x', '*a']",
            "line 5.*served by pool",
        ),
        ("[windlass.pools.a]\nqueues = ['x=0']\nthreads = 1", "windlass.toml, line 2.*'x=0': a weight"),
        ("[windlass.pools.a]\nthreads = 0", "line 2.*pool 'a' has no slots"),
        ("[windlass.pools.a]\nqueues = ['a']", "line 1.*has no slots"),
        ("[windlass.pools.a]\nqueues = []\nthreads = 1", "line 2.*is empty"),
        ("[windlass.pools.a]\nthread = 2", "line 2.*unknown option 'thread' .did you mean 'threads'"),
        ("[windlass.queues.a]\nmax_wiat = 2", "line 2.*did you mean 'max_wait'"),
        ("[windlass.queues]\na = { max_wait = 'soon' }", "line 2.*max_wait is 'soon'"),
        (
            "[windlass]\nstrict_queues = true\n[windlass.queues.critical]\n"
            "[windlass.pools.a]\nthreads = 1\nqueues = ['critcal']",
            "line 6.*'critcal' is not in the settings .did you mean 'critical'",
        ),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, toml)


def test_a_pool_for_the_rest_may_stand_beside_the_others(tmp_path: Path) -> None:
    found = settings(tmp_path, '[windlass.pools]\na = { threads = 1 }\nrest = { queues = ["*"], threads = 3 }\n')
    assert list(found.pools) == ["a", "rest"]


def test_strict_queues_holds_for_the_command_line_too(tmp_path: Path) -> None:
    found = settings(tmp_path, "[windlass]\nstrict_queues = true\n[windlass.queues.critical]\n")
    with pytest.raises(ConfigError, match=r"'critcal' is not in the settings .did you mean 'critical'"):
        lay_out(found, ("critcal",), strict=False, pools=())
    lay_out(found, ("crit*",), strict=False, pools=())
