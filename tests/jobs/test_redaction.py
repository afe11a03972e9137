"""What is redacted stays out of sight in every form that a job can give it, and everywhere that people look."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from windlass import JobContext, JobInfo, Retry, Windlass, on
from windlass.core.disguises import LEAST, cover
from windlass.errors import JobFailed
from windlass.jobs.redaction import MASK
from windlass.worker.worker import Worker, WorkerOptions

PEM = "-----BEGIN KEY-----\nMIIabc+/x==\nZZZZ'\"\\ n\n-----END KEY-----"

ESCAPES: list[Callable[[str], str]] = [
    str,
    repr,
    ascii,
    json.dumps,
    lambda text: json.dumps(text, ensure_ascii=False),
    lambda text: json.dumps(text).replace("/", "\\/"),
    lambda text: repr(text.encode("utf-8", "replace")),
    lambda text: repr(text + "'\""),  # which makes it escape the quotes of its neighbour
    lambda text: repr({"key": [text]}),
    lambda text: quote(text, errors="replace"),
    lambda text: quote(text, safe="", errors="replace"),
    lambda text: quote_plus(text, errors="replace"),
]


# -- forms of a text ---------------------------------------------------------------------------------------


# Without the letters of Latin-1, of which two may look like the bytes of one.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(0x80, 0x100))))


@given(st.text(LETTERS, min_size=LEAST), st.lists(st.sampled_from(ESCAPES), min_size=1, max_size=3))
@example(PEM, [json.dumps, repr])
@example("😀 key", [ascii, quote])
@example("clé de voûte", [ascii, quote])
@example("C:\\new\\table\\x41", [repr, json.dumps, quote])
@example("100%25 off", [quote, quote])
def test_a_secret_is_covered_in_whatever_form_it_stands(secret: str, escapes: list[Callable[[str], str]]) -> None:
    assume(len(re.sub(r"[\\+%]", "", secret)) >= LEAST)
    text = f"QqQ{secret}QqQ"
    for escape in escapes:
        text = escape(text)
    (between,) = re.findall("QqQ(.*)QqQ", cover(text, [secret], "•••"), re.DOTALL)
    assert re.sub(r"\\|%(25)*5C", "", between) == "•••"  # a backslash of the secret at either end may stay


@given(st.text(), st.lists(st.text(min_size=1), max_size=5))
def test_covering_never_fails_and_leaves_no_secret(text: str, secrets: list[str]) -> None:
    covered = cover(text, secrets, "•")
    assert not any(secret in covered and secret not in "•" for secret in secrets)


def test_a_line_of_a_secret_is_covered_by_itself_and_a_word_is_not() -> None:
    assert cover("the key begins with -----BEGIN KEY-----", [PEM], "•") == "the key begins with •"
    assert cover("to be", ["to\nbe\nor not to be"], "•") == "to be"


def test_what_has_no_secret_stays_as_it_is() -> None:
    text = "C:\\temp\\new 100%25 a+b \\u00e9 \n\ttraceback"
    assert cover(text, ["none of it", "x/y"], "•") == text


@pytest.mark.parametrize("text", ["\\" * 200_000 + "x", "%25" * 100_000, "\\u00" * 50_000, "%5c" * 70_000 + "u0"])
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    cover(text, ["secret/with'all\\sorts\n", PEM], "•")
    assert time.process_time() - began < 5  # seconds; a pattern that tries combinations takes hours


# -- values of a job ---------------------------------------------------------------------------------------


@dataclass
class Card:
    number: str
    pin: int


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://", attempts=1, reap="50ms") as app:
        yield app


def run(app: Windlass) -> None:
    options = WorkerOptions(burst=True)
    Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options, hooks=app.hooks).run()


WAYS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": repr,
    "json": json.dumps,
    "url": lambda text: f"https://pay.example/?key={quote_plus(text)}",
    "json in repr": lambda text: repr({"body": json.dumps({"key": text})}),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_no_place_shows_a_secret_in_any_form(app: Windlass, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """A key in PEM: in its error, cause, notes, progress, hooks, log, and what a waiter is told."""
    seen: list[JobInfo] = []
    app.on_dead(seen.append)

    @app.job(name="sign", redact=["key"], retry=0)
    def sign(ctx: JobContext, key: str) -> None:
        ctx.progress(1, 2, message=f"with {WAYS[way](key)}")
        try:
            raise LookupError(WAYS[way](key))
        except LookupError as cause:
            error = ValueError({"key": key})
            error.add_note(f"note {WAYS[way](key)}")
            raise error from cause

    handle = sign.enqueue(PEM)
    with caplog.at_level(logging.DEBUG):
        run(app)
    with pytest.raises(JobFailed) as failed:
        handle.result(timeout=5)
    info = handle.info()
    (line,) = app.dead.lines()
    for shown in (caplog.text, repr(info), repr(seen), str(failed.value), line.decode(), repr(app.dead.groups())):
        assert MASK in shown
        assert "BEGIN" not in shown
        assert "MIIabc" not in shown
    assert info.progress is not None
    assert seen[0].progress == info.progress
    assert PEM in (app.get(handle.id, reveal=True) or info).args  # type: ignore[operator]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"iban-DE89": {"owner": "Mrs Noname"}}, ["iban-DE89", "Mrs Noname", "'owner'"]),
        (Card("4111-1111", 90210), ["4111-1111", "90210"]),
        (date(1980, 2, 29), ["1980-02-29"]),
        (datetime(1980, 2, 29, 1, 2, 3, tzinfo=UTC), ["1980-02-29 01:02:03", "1980-02-29T01:02:03"]),
        (Decimal("1234.50"), ["1234.50"]),
    ],
    ids=["keys of a dict", "fields", "date", "instant", "decimal"],
)
def test_every_part_of_a_redacted_value_is_hidden(app: Windlass, value: object, shown: list[str]) -> None:
    def pay(secret: object) -> None:
        times = [secret.isoformat()] if isinstance(secret, date) else []
        raise ValueError(f"refused: {secret!r} {secret} {times}")

    pay.__annotations__["secret"] = type(value)
    handle = app.job(name="pay", redact=["secret"], retry=0)(pay).enqueue(value)
    run(app)
    info = handle.info()
    for text in shown:
        assert text not in info.errors[0].message
    assert "number" not in repr(value) or "number=" in info.errors[0].message  # the name of a field is no secret


def test_a_secret_in_a_result_is_masked_where_people_look_and_given_to_who_waits(app: Windlass) -> None:
    @app.job(name="charge", redact=["card"])
    def charge(card: str, pin: int) -> dict[str, object]:
        return {"receipt": f"paid with {card}", card: [card, 1], "pin": pin}

    handle = charge.enqueue("4111-1111", 90210)
    run(app)
    assert handle.info().result == {"receipt": f"paid with {MASK}", MASK: [MASK, 1], "pin": 90210}
    assert handle.result(timeout=5)["receipt"] == "paid with 4111-1111"
    revealed = app.get(handle.id, reveal=True)
    assert revealed is not None
    assert revealed.result == handle.result(timeout=5)


def test_a_number_that_is_redacted_is_masked_in_a_result_and_another_is_not(app: Windlass) -> None:
    @app.job(name="charge", redact=["pin", "rate"])
    def charge(pin: int, rate: float, amount: int) -> list[object]:
        return [pin, rate, amount, {"again": [pin]}, True, None]

    handle = charge.enqueue(90210, 0.125, 9021)
    run(app)
    assert handle.info().result == [MASK, MASK, 9021, {"again": [MASK]}, True, None]


def test_of_two_secrets_of_which_one_is_inside_the_other_nothing_is_left(app: Windlass) -> None:
    @app.job(name="login", redact=["short", "long"], retry=0)
    def login(short: str, long: str) -> None:
        raise ValueError(f"tried {long} and {short}")

    for short, long in (("hunter", "hunter-2-secret"), ("secret", "hunter-2-secret"), ("2-s", "hunter-2-secret")):
        handle = login.enqueue(short, long)
        run(app)
        assert handle.info().errors[0].message == f"tried {MASK} and {MASK}"


def test_a_result_is_redacted_by_its_name_in_the_annotations(app: Windlass) -> None:
    @app.job(name="token", redact=["return"])
    def token(user: int) -> str:
        return "eyJhbGciOi"

    handle = token.enqueue(7)
    assert handle.info().result is None
    run(app)
    assert (handle.info().result, handle.info().args) == (MASK, (7,))
    assert handle.result(timeout=5) == "eyJhbGciOi"


def test_a_message_is_masked_before_it_is_cut(app: Windlass, caplog: pytest.LogCaptureFixture) -> None:
    """Of a secret that stands where a text is cut, no first half stays."""
    secret = "s3cret-" * 40
    circuit = app.circuit("bank", failures=1, trip_on=(ValueError,))

    def wait(error: BaseException) -> float:
        raise LookupError("y" * 900 + str(error))

    @app.job(name="pay", redact=["key"], retry=Retry(attempts=2, rules=[on(ValueError).after(wait)]))
    def pay(ctx: JobContext, key: str) -> None:
        ctx.progress(1, message="x" * 990 + key)
        with circuit:
            raise ValueError("x" * 150 + key)

    handle = pay.enqueue(secret)
    run(app)
    run_again = handle.info()
    found = circuit.info()
    for shown in (repr(run_again), repr(found), caplog.text):
        assert "s3cret" not in shown
    assert f"x{MASK}" in repr(found)
