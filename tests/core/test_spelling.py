"""A misspelt keyword of anything public names the nearest one, and nothing else about the call changes."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import pydoc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import public
import windlass
from windlass import (
    Concurrency,
    Constant,
    Dead,
    Discard,
    Exponential,
    Linear,
    Once,
    Rate,
    Retry,
    RetryAfter,
    Snooze,
    Unique,
    Windlass,
    on,
)
from windlass.errors import ConfigError, PayloadError, UnknownOption

MADE = [Once, Unique, Concurrency, Rate, Retry, Exponential, Linear, Constant, Snooze, RetryAfter, Discard, Dead]
# Pictures and records, which users read and do not make or call with keywords.
READ = {"Exponential", "Linear", "Constant", "Retry", "Rule", "Rate", "Stats", "WorkerStatus", "Tx"}
CALLS: list[tuple[str, Callable[..., Any]]] = [
    (f"{name}.{method}", fn)
    for name, method, fn in public.methods()
    if name not in READ and method not in ("of", "start_anew")
] + [(made.__name__, made) for made in MADE]


def keywords(fn: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in inspect.signature(fn).parameters.values() if one.kind in kinds and one.name != "self"]


def takes_any(fn: Callable[..., Any]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(fn).parameters.values())


CASES = [(name, fn, word) for name, fn in CALLS if not takes_any(fn) for word in keywords(fn)]


def call(fn: Callable[..., Any], *args: object, **kwargs: object) -> object:
    made = fn(*args, **kwargs)
    return asyncio.run(made) if inspect.iscoroutine(made) else made


@pytest.mark.parametrize(("name", "fn", "word"), CASES, ids=[f"{name}-{word}" for name, _, word in CASES])
def test_a_misspelt_keyword_names_the_nearest_one(name: str, fn: Callable[..., Any], word: str) -> None:
    with pytest.raises(UnknownOption) as caught:
        call(fn, **{f"{word[:1]}{word[2:]}x" if len(word) > 3 else f"{word}x": 1})
    assert f"did you mean {word!r}?" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://") as app:
        yield app


OPEN: dict[str, Callable[[Windlass], object]] = {
    "keep_done": lambda app: Windlass("memory://", keep_doen="1m"),
    "client": lambda app: Windlass("memory://", clinet=None),
    "queue": lambda app: app.job(quue="x")(print_it),
    "priority": lambda app: app.job(name="p")(print_it).options(priorty=1),
    "rate": lambda app: app.dead.retry(rte="5/s"),
    "limit": lambda app: app.dead.list(limt=5),
    "group": lambda app: app.dead.discard(grup="x"),
    "on_progress": lambda app: asyncio.run(app.dead.adiscard(on_progres=print)),
    "reveal": lambda app: app.dead.export("x", revel=True),
    "cursor": lambda app: asyncio.run(app.dead.alist(cursr="x")),
    "tag": lambda app: app.dead.count(tga="x"),
    "attempts": lambda app: on(OSError).retry(atempts=2),
    "reason": lambda app: on(OSError).discard(reson="x"),
    "delay": lambda app: on(OSError).after(dealy="5s"),
    "failures": lambda app: app.circuit("bank", failuers=3),
    "until": lambda app: app.queue("mail").pause(untl="5m"),
    "wait": lambda app: app.lock("key", wiat="5s"),
    "after": lambda app: app.dead.recover(TimeoutError, afer="1h"),
    "timeout": lambda app: app.job(name="t")(print_it).enqueue(1).result(timout=1),
}


def print_it(n: int = 0) -> None: ...


@pytest.mark.parametrize("word", OPEN)
def test_so_do_those_that_take_any_keyword_and_those_of_objects(app: Windlass, word: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{word}'") as caught:
        OPEN[word](app)
    assert isinstance(caught.value, TypeError)


def test_a_misspelt_argument_of_a_job_names_the_nearest_parameter(app: Windlass) -> None:
    job = app.job(name="charge")(charge)
    with pytest.raises(PayloadError, match="did you mean 'payment_id'"):
        job.enqueue(paymnt_id=1)  # type: ignore[call-arg]


def charge(payment_id: int) -> None: ...


def test_a_keyword_that_is_like_none_lists_those_there_are(app: Windlass) -> None:
    with pytest.raises(UnknownOption, match="it takes key, lease, wait"):
        app.lock("k", zzz=1)  # type: ignore[call-arg]


def test_other_type_errors_stay_what_they_are(app: Windlass) -> None:
    def mine(now: Any) -> Any:
        raise TypeError("mine")

    app.clock.wall_ms = mine  # type: ignore[method-assign]
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("missing", lambda: app.circuit()),  # type: ignore[call-arg]
        ("takes from", lambda: app.lock("k", 1, 2, 3)),  # type: ignore[call-arg]
        ("multiple values", lambda: app.lock("k", key=1)),  # type: ignore[misc]
        ("Missing", lambda: Once()),  # type: ignore[call-arg]
        ("mine|positional", lambda: app.queue("q").pause(until="5m")),
    ]
    for words, call in wrong:
        with pytest.raises(TypeError, match=words) as caught:
            call()
        assert not isinstance(caught.value, UnknownOption)


def test_signatures_and_help_are_those_of_the_functions() -> None:
    assert list(inspect.signature(Windlass.circuit).parameters)[:4] == ["self", "name", "failures", "window"]
    assert inspect.signature(Windlass.circuit).parameters["failures"].default == 5
    assert inspect.iscoroutinefunction(Windlass.aget)
    assert not inspect.iscoroutinefunction(Windlass.get)
    assert list(inspect.signature(Once).parameters) == ["key", "keep"]
    assert "failures: 'int | None' = 5" in pydoc.render_doc(Windlass.circuit, renderer=pydoc.plaintext)
    assert "Once(key:" in pydoc.render_doc(Once, renderer=pydoc.plaintext)
    for name in windlass.__all__:
        found = getattr(windlass, name)
        if callable(found):
            assert found.__doc__
            assert found.__module__.startswith("windlass")


def test_structs_are_copied_pickled_and_decoded_as_ever() -> None:
    policy = Exponential(base=3, cap="1m")
    assert copy.copy(policy) == pickle.loads(pickle.dumps(policy)) == policy
    assert msgspec.json.decode(msgspec.json.encode(policy), type=Exponential) == policy
    assert msgspec.structs.replace(Retry(3), attempts=4) == Retry(4)
    assert pickle.loads(pickle.dumps(Snooze("5m", "later"))).delay_ms == 300_000


def test_the_cases_are_all_that_is_public() -> None:
    """What takes any keyword is in ``OPEN``, or takes the arguments of a job."""
    opened = {name for name, fn in CALLS if takes_any(fn)}
    assert {name for name in opened if not name.startswith(("DeadList.", "Job.", "AsyncJob."))} == {
        "Windlass.job", "JobContext.step", "JobContext.astep",  # those of the step's function
    }  # fmt: skip
    assert len(CASES) > 150
