"""Layers, origins and refusals of settings."""

from __future__ import annotations

import os
import typing
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from strangers import belongs_to_a_stranger
from windlass.core.backoff import Constant, Exponential, Linear
from windlass.core.work import QueueBound, RateBound
from windlass.engines.url import connect
from windlass.errors import ConfigError
from windlass.insight.queues import bounds_of
from windlass.settings import Loaded, QueueSettings, Settings, load_settings, mask_url
from windlass.settings.values import READERS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()  # the search for a settings file ends here
    return tmp_path


def load(
    project: Path, *, toml: str | None = None, env: dict[str, str] | None = None, **overrides: typing.Any
) -> Loaded:
    if toml is not None:
        (project / "windlass.toml").write_text(toml)
    return load_settings(None, overrides, environ=env or {}, start=project)


def test_every_setting_has_one_reader() -> None:
    assert list(READERS) == list(Settings.__struct_fields__)


def test_defaults_satisfy_their_own_readers(project: Path) -> None:
    loaded = load(project)
    assert loaded.settings == msgspec.structs.replace(Settings(), url=f"sqlite:///{project}/windlass.db")
    assert set(loaded.origin.values()) == {"default"}
    assert (loaded.file, loaded.warnings) == (None, [])


def test_later_layers_win_and_origins_tell(project: Path) -> None:
    toml = "[windlass]\nthreads = 1\nprocesses = 2\nlease = '1m'\nattempts = 3\n"
    toml += "[windlass.env.production]\nprocesses = 4\nattempts = 5\n"
    env = {"WINDLASS_ENV": "production", "WINDLASS_LEASE": "90s", "WINDLASS_ATTEMPTS": "6", "HOME": "/"}
    loaded = load(project, toml=toml, env=env, attempts=7)
    got = loaded.settings
    assert (got.threads, got.processes, got.lease, got.attempts) == (1, 4, 90_000, 7)
    assert loaded.origin["threads"] == "windlass.toml"
    assert loaded.origin["processes"] == "windlass.toml [env.production]"
    assert loaded.origin["lease"] == "environment WINDLASS_LEASE"
    assert loaded.origin["attempts"] == "argument"
    assert loaded.origin["reap"] == "default"
    assert loaded.file == project / "windlass.toml"


def test_url_order(project: Path) -> None:
    def origin(**kwargs: object) -> tuple[str, str]:
        loaded = load_settings(start=project, **kwargs)  # type: ignore[arg-type]
        return loaded.settings.url, loaded.origin["url"]

    redis = {"REDIS_URL": "redis://inherited"}
    assert origin(environ=redis) == ("redis://inherited", "environment REDIS_URL (inherited)")
    (project / "windlass.toml").write_text('[windlass]\nurl = "redis://file"\n')
    assert origin(environ=redis) == ("redis://file", "windlass.toml")
    both = redis | {"WINDLASS_URL": "redis://env"}
    assert origin(environ=both) == ("redis://env", "environment WINDLASS_URL")
    assert origin(environ=both, url="redis://argument") == ("redis://argument", "argument")


def test_file_is_found_upwards_but_not_beyond_the_repository(project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    (project / "pyproject.toml").write_text("[tool.windlass]\nthreads = 7\n")
    assert load(deep).settings.threads == 7
    (project / "a" / "pyproject.toml").write_text("[tool.other]\nwindlass = 1\n")
    assert load(deep).settings.threads == 7
    (project / "a" / ".git").mkdir()
    assert load(deep).file is None


def test_broken_pyproject_that_is_not_ours_is_passed_over(project: Path) -> None:
    (project / "pyproject.toml").write_text("[[[")
    assert load(project).file is None


def test_config_variable_names_the_file(project: Path) -> None:
    (project / "other.toml").write_text("[windlass]\nthreads = 8\n")
    assert load(project, toml="[windlass]\nthreads = 9\n", env={"WINDLASS_CONFIG": "other.toml"}).settings.threads == 8
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read"):
        load(project, env={"WINDLASS_CONFIG": "gone.toml"})


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[windlass]\nthread = 1", r"unknown setting 'thread' \(windlass.toml\) .did you mean 'threads'?"),
        ("[windlass.env.prod]\nleese = 1", r"'leese' \(windlass.toml \[env.prod\]\) .did you mean 'lease'"),
        ("threads = 1", r"'threads' at its root; settings stand under \[windlass\]"),
        ("[windlas]", "did you mean 'windlass'"),
        ("[windlass", "not valid TOML"),
        ("windlass = 1", "must be a table"),
        ("[windlass]\nenv = 1", "must be a table"),
        ("[windlass.env]\nprod = 1", "must be a table"),
        ("[windlass]\nthreads = '4'", r"threads \(windlass.toml\) is '4'; it must be a whole number"),
    ],
)
def test_wrong_file_is_refused(project: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(project, toml=toml)


def test_unknown_argument_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"'keep_don' \(argument\) .did you mean 'keep_done'"):
        load(project, keep_don="10m")


def test_unknown_variable_is_a_warning_with_the_nearest(project: Path) -> None:
    loaded = load(project, env={"WINDLASS_THREAD": "3", "WINDLASS_CRASHPOINT": "x", "WINDLASS_QUEUES": "a"})
    assert loaded.warnings[0] == "unknown variable WINDLASS_THREAD is ignored (did you mean 'WINDLASS_THREADS'?)"
    assert [w.split()[2] for w in loaded.warnings] == ["WINDLASS_THREAD", "WINDLASS_QUEUES"]


def test_unknown_environment_is_a_warning(project: Path) -> None:
    loaded = load(project, toml="[windlass.env.production]\n", env={"WINDLASS_ENV": "producton"})
    assert "did you mean 'production'" in loaded.warnings[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("threads", 0), ("threads", True), ("threads", 1.5), ("threads", None), ("threads", 2**40)),
        *(("lease", "5 min"), ("lease", 0), ("lease", None), ("poll_min", 0), ("shutdown_timeout", -1)),
        *(("payload_max", "1XB"), ("error_max", 10), ("durability", "fsink"), ("durability", 1), ("log_format", "xml")),
        *(
            ("strict_queues", "true"),
            ("namespace", "a b"),
            ("app", "shop.jobs"),
            ("dead_archive", ""),
            ("dead_max", -1),
        ),
        *(("queues", []), ("queues", {"a b": {}}), ("queues", {"a": 1}), ("attempts", 0), ("processes", 0)),
        *(
            ("url", "mysql://h"),
            ("url", "x"),
            ("url", ""),
            ("url", 3),
            ("url", "sqlite://jobs.db"),
            ("url", "sqlite:///"),
        ),
    ],
)
def test_wrong_value_names_key_and_origin(project: Path, key: str, value: typing.Any) -> None:
    with pytest.raises(ConfigError, match=rf"{key} \(argument\)"):
        load(project, **{key: value})


def test_wrong_engine_gets_the_nearest_and_keeps_the_password_secret(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'redis'") as caught:
        load_settings("redsi://u:hunter2@h", environ={}, start=project)
    assert "hunter2" not in str(caught.value)


def test_values_take_every_spelling(project: Path) -> None:
    env = {
        "WINDLASS_THREADS": "3",
        "WINDLASS_STRICT_QUEUES": "yes",
        "WINDLASS_DEAD_KEEP": "none",
        "WINDLASS_APP": "a.b:c",
    }
    loaded = load(
        project, env=env | {"WINDLASS_LEASE": ""}, keep_done=timedelta(minutes=1), payload_max="2MiB", dead_max=5
    )
    got = loaded.settings
    assert (got.threads, got.strict_queues, got.dead_keep, got.app) == (3, True, None, "a.b:c")
    assert (got.keep_done, got.payload_max, got.dead_max, got.lease) == (60_000, 2**21, 5, 30_000)


def test_wrong_variable_is_named(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"threads \(environment WINDLASS_THREADS\) is 'many'"):
        load(project, env={"WINDLASS_THREADS": "many"})


def test_queue_tables_are_kept(project: Path) -> None:
    assert load(project, toml="[windlass.queues.mail]\nretry_budget = 0.2\n").settings.queues == {
        "mail": QueueSettings(retry_budget=0.2)
    }


def test_a_backoff_is_a_policy_a_table_a_kind_or_json(project: Path) -> None:
    assert load(project).settings.backoff == Exponential()
    assert load(project, backoff=Constant(5)).settings.backoff == Constant("5s")
    table = '[windlass]\nbackoff = {kind = "linear", step = "2s", cap = "1m"}\n'
    assert load(project, toml=table).settings.backoff == Linear(step=2, cap=60)
    assert load(project, env={"WINDLASS_BACKOFF": "linear"}).settings.backoff == Linear()
    variable = {"WINDLASS_BACKOFF": '{"kind": "constant", "delay": "5s"}'}
    assert load(project, toml="", env=variable).settings.backoff == Constant(5)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("quadratic", "quadratic"),
        ("exponentail", "did you mean 'exponential'"),
        ({"kind": "linaer"}, "did you mean 'linear'"),
        ("{", "truncated"),
        ({"kind": "constant"}, "delay"),
        ({"kind": "linear", "stp": 1}, "did you mean 'step'"),
        ({"kind": "linear", "step": -1}, "negative"),
        (5, "5"),
    ],
)
def test_a_wrong_backoff_names_the_setting(project: Path, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"backoff \(argument\).*{says}"):
        load(project, backoff=value)


def test_limits_and_rates_of_queues_are_read(project: Path) -> None:
    toml = '[windlass.queues]\nmail = { limit = 4, rate = "100/60s" }\nslow = { limit = "none", rate = "none" }\n'
    found = load(project, toml=toml).settings
    assert found.queues == {"mail": QueueSettings(limit=4, rate="100/m"), "slow": QueueSettings()}
    assert bounds_of(found) == (QueueBound("mail", 4, RateBound(100, 60_000)),)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("limit = 0", "limit is 0; it must be a whole number from 1"),
        ("limit = true", "limit is True; it must be a whole number"),
        ('limit = "4"', "limit is '4'; it must be a whole number"),
        ("rate = 5", "rate is 5: write a number per time"),
        ('rate = "5/week"', "unknown unit 'week'"),
        ('rat = "5/s"', "unknown option 'rat' .did you mean 'rate'"),
    ],
)
def test_a_wrong_limit_or_rate_is_refused_with_its_line(project: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"line 2.*{says}|{says}.*line 2"):
        load(project, toml=f"[windlass.queues.mail]\n{line}\n")


@pytest.mark.parametrize("share", ["0", "1.5", "-0.1", "true", '"half"'])
def test_a_retry_budget_is_a_share(project: Path, share: str) -> None:
    with pytest.raises(ConfigError, match=r"mail\.retry_budget is .* share above 0 and up to 1"):
        load(project, toml=f"[windlass.queues.mail]\nretry_budget = {share}\n")


def test_an_unknown_option_of_a_queue_is_refused_with_the_nearest_spelling(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"mail: unknown option 'retry_buget' .did you mean 'retry_budget'"):
        load(project, toml="[windlass.queues.mail]\nretry_buget = 0.2\n")


def test_values_that_contradict_each_other_are_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"renew is 10s \(default\), but lease is 10s \(argument\)"):
        load(project, lease=10)
    with pytest.raises(ConfigError, match="poll_min"):
        load(project, poll_min=6)


def test_renewal_that_leaves_no_second_try_is_a_warning(project: Path) -> None:
    assert "renew is 5s (argument)" in load(project, lease=12, renew=5).warnings[0]
    assert load(project, lease=15, renew=5).warnings == []


def test_relative_sqlite_path_is_resolved_from_the_settings_file(project: Path) -> None:
    deep = project / "a"
    deep.mkdir()
    assert load_settings("sqlite:///j.db", environ={}, start=deep).settings.url == f"sqlite:///{deep}/j.db"
    (project / "windlass.toml").write_text("[windlass]\n")
    assert load_settings("sqlite:///../j.db", environ={}, start=deep).settings.url == f"sqlite:///{project.parent}/j.db"
    assert load_settings("sqlite:////abs/j.db", environ={}, start=deep).settings.url == "sqlite:////abs/j.db"
    assert load_settings("memory://", environ={}, start=deep).settings.url == "memory://"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://u:pw@h/0", "redis://u:•••@h/0"),
        ("redis://:p@w/x@h/0", "redis://:•••@h/0"),
        ("redis+sentinel://:pw@a:1,b:2/m/0", "redis+sentinel://:•••@a:1,b:2/m/0"),
        ("redis+sentinel://a:1,b:2/m/0", "redis+sentinel://a:1,b:2/m/0"),
        ("postgresql://h/d?user=u&password=pw&x=1", "postgresql://h/d?user=u&password=•••&x=1"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_mask_hides_secrets_only(url: str, shown: str) -> None:
    assert mask_url(url) == shown


# -- whose file it may be ----------------------------------------------------------------------------------


EVIL = '[windlass]\napp = "evil:app"\nthreads = 66\n'


@pytest.mark.parametrize("mark", [".git", ".hg", "pyproject.toml", "setup.py", "setup.cfg"])
def test_a_file_above_the_project_is_not_read_and_named(tmp_path: Path, mark: str) -> None:
    below = tmp_path / "project" / "src"
    below.mkdir(parents=True)
    (tmp_path / "project" / mark).touch()
    (tmp_path / "windlass.toml").write_text(EVIL)
    loaded = load(below)
    assert (loaded.file, loaded.settings.app) == (None, None)
    (warning,) = loaded.warnings
    assert f"{tmp_path}/windlass.toml is above the project ({tmp_path}/project) and is not read" in warning
    assert f"WINDLASS_CONFIG={tmp_path}/windlass.toml" in warning
    assert load(below, env={"WINDLASS_CONFIG": f"{tmp_path}/windlass.toml"}).settings.threads == 66


def test_the_repository_is_the_project_also_of_packages_in_it(project: Path) -> None:
    package = project / "services" / "shop"
    package.mkdir(parents=True)
    (package / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    (project / "windlass.toml").write_text("[windlass]\nthreads = 3\n")
    assert load(package).settings.threads == 3


def test_a_file_of_another_user_above_is_passed_over_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it make the folder a project."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "windlass.toml").write_text(EVIL)
    belongs_to_a_stranger(tmp_path / "windlass.toml", monkeypatch)
    loaded = load(below)
    assert (loaded.file, loaded.settings.app) == (None, None)
    assert f"{tmp_path}/windlass.toml is above the project" in loaded.warnings[0]


def test_a_mark_of_another_user_does_not_widen_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a"
    below.mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.windlass]\nthreads = 66\n")
    belongs_to_a_stranger(tmp_path / ".git", monkeypatch)
    belongs_to_a_stranger(tmp_path / "pyproject.toml", monkeypatch)
    assert load(below).file is None


@pytest.mark.parametrize("name", ["windlass.toml", "pyproject.toml"])
@pytest.mark.parametrize("how", ["file", "link", "target"])
def test_a_file_of_another_user_in_the_project_is_an_error_until_it_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    """Going on without it would use another store."""
    file = project / name
    text = "[windlass]\nthreads = 5\n" if name == "windlass.toml" else "[tool.windlass]\nthreads = 5\n"
    (project / "there").write_text(text)
    if how == "file":
        file.write_text(text)
    else:
        file.symlink_to("there")
    belongs_to_a_stranger(project / "there" if how == "target" else file, monkeypatch)
    (project / "deep").mkdir()
    if os.geteuid() == 0:  # else the repository is a stranger's too, and the project ends at the folder itself
        with pytest.raises(ConfigError, match=rf"{name} belongs to user .*WINDLASS_CONFIG="):
            load(project / "deep")
    with pytest.raises(ConfigError, match=rf"{name} belongs to user .*WINDLASS_CONFIG="):
        load(project)
    assert load(project, env={"WINDLASS_CONFIG": name}).settings.threads == 5


def test_a_pyproject_of_another_user_without_our_table_is_none_of_ours(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pyproject.toml").write_text("[tool.other]\n")
    belongs_to_a_stranger(project / "pyproject.toml", monkeypatch)
    assert load(project).file is None


def test_a_file_that_everybody_can_write_is_an_error(project: Path) -> None:
    (project / "windlass.toml").write_text("[windlass]\nthreads = 5\n")
    (project / "windlass.toml").chmod(0o666)
    with pytest.raises(ConfigError, match=r"can be written by everybody \(chmod o-w\)"):
        load(project)
    (project / "windlass.toml").chmod(0o664)  # a group is the user's own affair
    assert load(project).settings.threads == 5


def test_a_link_of_ours_is_followed(project: Path) -> None:
    (project / "there").write_text("[windlass]\nthreads = 5\n")
    (project / "windlass.toml").symlink_to("there")
    assert load(project).settings.threads == 5


def test_what_is_named_and_cannot_be_settings_is_said_and_not_waited_for(project: Path) -> None:
    os.mkfifo(project / "pipe")
    (project / "huge").write_text("#" * 2_000_000)
    (project / "deep").write_text("a = " + "[" * 100_000)
    for name, words in (
        ("pipe", "it is a pipe; give a regular file"),
        (".", "it is a folder"),
        ("/dev/zero", "it is a device"),
        ("huge", "larger than 1 MiB"),
        ("deep", "not valid TOML"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(project, env={"WINDLASS_CONFIG": name})


def test_a_pipe_in_the_place_of_a_settings_file_is_none(project: Path) -> None:
    os.mkfifo(project / "windlass.toml")
    assert load(project).file is None


# -- passwords ---------------------------------------------------------------------------------------------


WRONG_URLS = [
    "redis:/u:hunter2@host", "redis:u:hunter2@host", "redis:///u:hunter2@host/0", "redis//u:hunter2@host",
    "u:hunter2@host:6379", ":hunter2@host", "rediss://:hunter2@host:port", "reddis://u:hunter2@host",
    "redis://u:hunter2@host:99999/x", "redis://u:hun@ter2:hunter2@host/zero", "sqlite://u:hunter2@host",
    "redis+sentinel://u:hunter2@host", "redis+cluster://u:hunter2@", "redis://host?password=hunter2&x=1",
    "postgresql://u:hunter2@host/db", "redis://host:1?ssl_keyfile_passwörd=hunter2&token=hunter2",
]  # fmt: skip


@pytest.mark.parametrize("url", [url for url in WRONG_URLS if "wörd" not in url])
@pytest.mark.parametrize("how", ["argument", "environment", "file"])
def test_no_error_about_a_url_shows_its_password(project: Path, url: str, how: str) -> None:
    said = ""
    try:
        match how:
            case "argument":
                loaded = load_settings(url, environ={}, start=project)
            case "environment":
                loaded = load(project, env={"WINDLASS_URL": url})
            case _:
                loaded = load(project, toml=f"[windlass]\nurl = {url!r}\n")
        said += repr(loaded) + str(loaded.settings)
        said += repr(connect(loaded.settings))
    except ConfigError as error:
        said += f"{error!r} {error.__cause__!r}"
    assert "hunter2" not in said


def test_settings_show_every_value_but_the_password(project: Path) -> None:
    shown = repr(load_settings("redis://u:hunter2@host/0", {"threads": 3}, environ={}, start=project).settings)
    assert "url='redis://u:•••@host/0'" in shown
    assert "threads=3" in shown
