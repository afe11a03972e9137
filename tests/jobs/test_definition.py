"""Jobs and calls before anything is stored: names, options, injection, binding."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import windlass
from windlass import AsyncJob, Exponential, Job, JobContext, Retry, Windlass
from windlass.core.meta import decode_meta
from windlass.core.retry import Constant, decode_backoff, on
from windlass.core.work import Lease
from windlass.errors import ConfigError, NotInJob, PayloadError
from windlass.jobs.context import CURRENT


def charge(payment_id: int) -> int:
    return payment_id * 2


def charge_again(payment_id: int) -> int:
    return payment_id


def fetch(ctx: JobContext, url: str) -> str:
    return f"{ctx.id} {url}"


async def afetch(ctx: JobContext, url: str) -> str:
    await asyncio.sleep(0)
    return f"{ctx.id} {url}"


def hidden_context() -> Callable[..., object]:
    """A function whose module imports JobContext under TYPE_CHECKING only."""
    scope: dict[str, Callable[..., object]] = {}
    exec('def hidden(ctx: "JobContext", n: int) -> int: return n', {"__name__": "shop"}, scope)  # noqa: S102
    return scope["hidden"]


def dotted_context(ctx: windlass.JobContext, n: int) -> int:
    return n


def no_context(context: str, ctx: JobContext) -> None: ...


@pytest.fixture
def app() -> Windlass:
    return Windlass("memory://", attempts=7)


@pytest.fixture
def ctx() -> Iterator[JobContext]:
    context = JobContext(Lease("j1", "x", "default", b"[1,[],{}]", 1, 1, 3, 0, 0, 0), None)  # type: ignore[arg-type]
    token = CURRENT.set(context)
    yield context
    CURRENT.reset(token)


# -- the function ------------------------------------------------------------------------------------------


def test_with_and_without_parentheses_and_calling_it_is_a_plain_call(app: Windlass) -> None:
    job = app.job(charge)
    assert isinstance(job, Job)
    assert job(21) == 42
    assert job.__name__ == "charge"
    assert isinstance(Windlass("memory://").job()(charge), Job)


def test_an_async_function_becomes_an_async_job(app: Windlass, ctx: JobContext) -> None:
    job = app.job(afetch)
    assert isinstance(job, AsyncJob)
    assert asyncio.run(job("u")) == "j1 u"


def test_the_current_context_is_passed_on_in_a_direct_call(app: Windlass, ctx: JobContext) -> None:
    assert app.job(fetch)("u") == "j1 u"


def test_a_direct_call_outside_a_job_raises_not_in_job_and_says_what_to_do(app: Windlass) -> None:
    job = app.job(fetch)
    with pytest.raises(
        NotInJob, match=r"job '[a-z_.]*fetch' takes a JobContext.*fetch\.enqueue\(.*fetch\.__wrapped__\("
    ):
        job("u")
    with pytest.raises(NotInJob, match=r"afetch\.enqueue"):
        asyncio.run(app.job(afetch)("u"))


def test_a_context_of_ones_own_can_be_given_to_the_function_itself(app: Windlass, ctx: JobContext) -> None:
    job = app.job(fetch)
    assert job.__wrapped__(ctx, "u") == "j1 u"  # type: ignore[attr-defined]


def test_the_context_is_found_by_annotation_however_it_is_written(app: Windlass) -> None:
    assert app.job(fetch).spec.takes_context
    assert app.job(afetch).spec.takes_context
    assert app.job(dotted_context).spec.takes_context
    assert app.job(hidden_context()).spec.takes_context
    assert not app.job(charge).spec.takes_context
    assert not app.job(no_context).spec.takes_context


def test_an_injected_context_is_no_argument(app: Windlass) -> None:
    assert app.job(fetch).bind("u").new.payload == '[1,["u"],{}]'


@pytest.mark.parametrize("fn", [print, Retry, lambda: None])
def test_what_no_worker_could_find_is_refused(app: Windlass, fn: object) -> None:
    with pytest.raises(ConfigError):
        app.job(fn)  # type: ignore[call-overload]


def test_a_nested_function_needs_a_name(app: Windlass) -> None:
    def nested() -> None: ...

    with pytest.raises(ConfigError, match="give it a name"):
        app.job(nested)
    assert app.job(name="nested")(nested).name == "nested"


class Mail:
    def send(self, to: str) -> None: ...

    @staticmethod
    def count(self: str) -> None: ...


def test_a_method_is_refused_since_a_worker_has_no_object_to_call_it_on(app: Windlass) -> None:
    with pytest.raises(ConfigError, match=r"Mail\.send is a method, .*@staticmethod"):
        app.job(Mail.send)
    with pytest.raises(ConfigError, match="is a method"):
        app.job(name="send")(Mail.send)
    assert app.job(Mail.count).name.endswith("Mail.count")


def test_a_generator_function_is_refused(app: Windlass) -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigError, match="generator"):
        app.job(name="rows")(rows)


# -- names -------------------------------------------------------------------------------------------------

SCRIPT = """
from windlass import Windlass
app = Windlass("memory://")
@app.job
def ship(n: int) -> int: return n
print(ship.name)
"""


def run_python(folder: Path, *args: str) -> str:
    source = str(Path(windlass.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env={"PYTHONPATH": source}, capture_output=True, text=True, timeout=60
    )
    return (done.stdout + done.stderr).strip()


def test_the_default_name_is_module_and_qualname(app: Windlass) -> None:
    assert app.job(charge).name == f"{__name__}.charge"


def test_a_script_gives_its_jobs_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPT)
    assert run_python(tmp_path, "shop.py") == "shop.ship"


def test_a_module_run_with_m_gives_its_jobs_its_full_name(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "__main__.py").write_text(SCRIPT)
    (tmp_path / "store" / "jobs.py").write_text(SCRIPT)
    assert run_python(tmp_path, "-m", "store.jobs") == "store.jobs.ship"
    assert run_python(tmp_path, "-m", "store") == "store.ship"


# -- options -----------------------------------------------------------------------------------------------


def test_options_are_resolved_into_the_spec(app: Windlass) -> None:
    spec = app.job(
        queue="payments", retry=5, timeout=30, priority=-10, expires="1h", tags=["money", "money"], keep="2d",
        redact=["payment_id"], version="2", durability="normal", executor="process", aliases=["old"],
    )(charge).spec  # fmt: skip
    assert (spec.queue, spec.priority, spec.timeout_ms, spec.expires_ms) == ("payments", -10, 30_000, 3_600_000)
    assert (spec.retry.attempts, spec.tags, spec.keep_ms) == (6, ("money",), 172_800_000)
    assert (spec.redact, spec.version, spec.durability) == (("payment_id",), "2", "normal")
    assert (spec.executor, spec.aliases) == ("process", ("old",))


def test_defaults_come_from_the_settings(app: Windlass) -> None:
    new = app.job(charge).bind(1).new
    assert (new.queue, new.priority, new.max_attempts, new.meta, new.durable) == ("default", 0, 7, None, None)
    assert not new.caller_id


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quue": "x"}, "did you mean 'queue'"),
        ({"uniqe": True}, "no option 'uniqe' .did you mean 'unique'"),
        ({"delay": 5}, r"\.options\(delay"),
        ({"queue": "a b"}, "queue name"),
        ({"queue": ""}, "queue name"),
        ({"priority": 1001}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"retry": -1}, "retry"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"expires": -1}, "expires"),
        ({"executor": "proces"}, "did you mean 'process'"),
        ({"durability": "fysnc"}, "did you mean 'fsync'"),
        ({"tags": "money"}, "list of texts"),
        ({"tags": [1]}, "list of texts"),
        ({"tags": [""]}, "a tag is ..; use 1 to 128"),
        ({"redact": ["payment"]}, "did you mean 'payment_id'"),
        ({"version": 2}, "version"),
        ({"name": ""}, "not a job name"),
        ({"name": "a\nb"}, "not a job name"),
        ({"aliases": [""]}, "not a job name"),
    ],
)
def test_a_wrong_option_is_an_error_at_definition(app: Windlass, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        app.job(**options)(charge)  # type: ignore[call-overload]
    assert len(app.registry) == 0


def test_an_async_job_cannot_ask_for_a_thread(app: Windlass) -> None:
    with pytest.raises(ConfigError, match="event loop"):
        app.job(executor="thread")(afetch)


def test_options_change_the_next_call_and_not_the_job(app: Windlass) -> None:
    job = app.job(charge)
    other = job.options(queue="slow", priority=5, delay="5m", tags=["x"], expires=9, at_front=True, durability="fsync")
    new = other.bind(1).new
    assert (new.queue, new.priority, new.delay_ms, new.tags, new.expires_ms) == ("slow", 5, 300_000, ("x",), 9_000)
    assert new.at_front
    assert new.durable is True
    assert job.bind(1).new.queue == "default"
    assert other.options(queue="fast").bind(1).new.priority == 5


def test_only_what_a_call_changes_rides_with_it(app: Windlass) -> None:
    job = app.job(timeout=30, keep="1h", redact=["payment_id"], version="1")(charge)
    meta = job.bind(1).new.meta
    assert meta is not None
    assert decode_meta(meta.encode()).timeout_ms is None
    assert decode_meta(meta.encode()).redact == ("payment_id",)
    changed = job.options(timeout=5, keep=0, retry=Retry(attempts=2, backoff=Exponential(cap="10s"))).bind(1).new
    assert changed.meta is not None
    facts = decode_meta(changed.meta.encode())
    assert (facts.timeout_ms, facts.keep_ms, changed.max_attempts) == (5_000, 0, 2)
    assert facts.backoff is not None
    assert decode_backoff(facts.backoff) == Exponential(cap="10s")


def test_a_number_of_retries_keeps_the_backoff(app: Windlass) -> None:
    new = app.job(charge).options(retry=2).bind(1).new
    assert (new.max_attempts, new.meta) == (3, None)


def test_a_call_may_change_the_numbers_of_a_policy_but_bring_no_code(app: Windlass) -> None:
    job = app.job(retry=[on(OSError).retry(attempts=9)])(charge)
    meta = job.options(retry=Retry(within="1h", backoff=Constant(5))).bind(1).new.meta
    assert meta is not None
    facts = decode_meta(meta.encode())
    assert (facts.within_ms, facts.capped) == (3_600_000, False)
    meta = job.options(retry=0).bind(1).new.meta
    assert meta is not None
    assert decode_meta(meta.encode()).capped
    for retry in ([on(KeyError).dead()], Retry(rules=[on(KeyError).dead()]), Retry(backoff=lambda n, e: 1)):
        with pytest.raises(ConfigError, match="cannot be stored with a job"):
            job.options(retry=retry)


def test_a_wrong_policy_is_refused_with_the_name_of_its_job(app: Windlass) -> None:
    with pytest.raises(ConfigError, match=r"job '.*charge': retry='often'"):
        app.job(retry="often")(charge)  # type: ignore[call-overload]


def test_an_instant_must_be_aware(app: Windlass) -> None:
    job = app.job(charge)
    when = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert job.options(at=when).bind(1).new.run_at == int(datetime(2030, 1, 1, 10, tzinfo=UTC).timestamp() * 1000)
    with pytest.raises(ConfigError, match="time zone"):
        job.options(at=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="aware datetime"):
        job.options(at="tomorrow")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dealy": 5}, "did you mean 'delay'"),
        ({"name": "x"}, "belongs to the definition"),
        ({"executor": "process"}, "belongs to the definition"),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "both"),
        ({"delay": -1}, "delay"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"at_front": 1}, "at_front"),
    ],
)
def test_a_wrong_call_option_is_an_error_where_it_is_written(
    app: Windlass, options: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        app.job(charge).options(**options)  # type: ignore[arg-type]


def test_a_call_cannot_lift_what_the_definition_bounds(app: Windlass) -> None:
    bounded, free = app.job(timeout=30)(charge), app.job(name="free")(charge_again)
    with pytest.raises(ConfigError, match="cannot remove"):
        bounded.options(timeout=None)
    assert free.options(timeout=None, keep=None).bind(1).new.meta is None


def test_strict_queues_knows_only_those_of_the_settings() -> None:
    app = Windlass("memory://", strict_queues=True, queues={"payments": {}})
    job = app.job(queue="payments")(charge)
    with pytest.raises(ConfigError, match="did you mean 'payments'"):
        job.options(queue="payment")
    with pytest.raises(ConfigError, match="strict_queues allows payments"):
        app.job(name="other")(charge_again)


# -- calls -------------------------------------------------------------------------------------------------


def test_bind_makes_an_id_and_each_call_has_its_own(app: Windlass) -> None:
    job = app.job(charge)
    one, two = job.bind(1), job.bind(1)
    assert one.id != two.id
    assert (one.name, one.queue, one.args, one.kwargs) == (job.name, "default", (1,), {})


def test_an_id_of_the_caller_is_marked_as_such(app: Windlass) -> None:
    new = app.job(charge).options(id="pay-42").bind(42).new
    assert (new.id, new.caller_id) == ("pay-42", True)


def test_arguments_that_do_not_fit_are_refused_where_they_are_bound(app: Windlass) -> None:
    job = app.job(charge)
    with pytest.raises(PayloadError, match="missing a required argument"):
        app.enqueue(job.bind())  # what a chain would fill in
    with pytest.raises(PayloadError):
        job.bind("x")  # type: ignore[arg-type]
    with pytest.raises(PayloadError):
        job.bind(1, 2)  # type: ignore[call-arg]


def test_a_call_does_not_show_its_arguments(app: Windlass) -> None:
    assert "4242" not in repr(app.job(charge).bind(4242))


def test_none_for_delay_at_and_id_is_as_if_they_were_not_given(app: Windlass) -> None:
    job = app.job(name="plain")(lambda: None)
    new = job.options(delay=None, at=None, id=None).bind().new
    assert (new.run_at, new.delay_ms, new.caller_id) == (None, 0, False)
    assert job.options(delay="5s", at=None).bind().new.delay_ms == 5_000


@pytest.mark.parametrize("how", ["-c", "-"], ids=["-c", "stdin"])
def test_a_job_of_no_file_is_named_after_main_and_says_that_no_worker_can_import_it(tmp_path: Path, how: str) -> None:
    code = """if True:
        from windlass import Windlass
        app = Windlass("memory://")
        @app.job
        def greet(name: str) -> str: return name
        print(greet.name, app.get(greet.enqueue("Ada").id).name, greet("Ada"))
    """
    words = [sys.executable, "-c", code] if how == "-c" else [sys.executable, "-"]
    done = subprocess.run(
        words, input=None if how == "-c" else code, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout == "__main__.greet __main__.greet Ada\n", done.stderr
    assert "not defined in a file, so no worker can import it" in done.stderr
    assert "put it into a module" in done.stderr
