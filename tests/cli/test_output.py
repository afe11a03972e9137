"""How the command writes times, lengths, tables and values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from dead_shop import worker_of
from windlass import Dead, JobContext, State, Windlass
from windlass.cli.main import cli
from windlass.cli.output import (
    Column,
    ago,
    count,
    emit_json,
    fit,
    inline,
    length,
    lines,
    moment,
    printable,
    record,
    table,
)
from windlass.core.clock import to_ms

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 s"),
        (250, "250 ms"),
        (1_234, "1.23 s"),
        (12_345, "12.3 s"),
        (754_321, "12 min 34 s"),
        (3_600_000 + 754_321, "1 h 13 min"),
        (86_400_000 * 3 + 3_600_000 * 4 + 99_999, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_a_length_is_rounded_to_what_one_wants_to_know(ms: float, text: str) -> None:
    assert length(ms) == text


@pytest.mark.parametrize(
    ("away", "text"),
    [
        (timedelta(), "now"),
        (timedelta(milliseconds=-999), "now"),
        (timedelta(seconds=-90), "1 min 30 s ago"),
        (timedelta(hours=5), "in 5 h"),
    ],
)
def test_an_instant_is_told_by_its_distance(away: timedelta, text: str) -> None:
    assert ago(NOW + away, to_ms(NOW)) == text
    assert moment(NOW, to_ms(NOW - away)).startswith("2026-01-02 03:04:05 UTC (")


def test_columns_are_aligned_without_trailing_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    table([Column("Name"), Column("Jobs", right=True), Column("Note")], [["a", "1", ""], ["longer", "1,000", "x\ny"]])
    assert capsys.readouterr().out == "Name     Jobs  Note\na           1\nlonger  1,000  x\\ny\n"


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("short", 5, "short"),
        ("shop.jobs.charge_customer", 11, "shop.…tomer"),
        ("shop.jobs.charge_customer", 4, "sh…r"),
        ("ab", 1, "…"),
        ("ab", 0, ""),
        ("日本語の名前", 7, "日…前"),
        ("日本語", 6, "日本語"),
    ],
)
def test_a_text_that_is_too_long_loses_its_middle(text: str, width: int, fitted: str) -> None:
    assert fit(text, width) == fitted


COLUMNS = (Column("Queue", least=4), Column("Jobs", right=True), Column("Job", least=4), Column("Note", extra=True))


def test_a_table_that_is_too_wide_loses_extra_columns_and_then_shortens_the_widest() -> None:
    rows = [["payments", "12", "shop.jobs.charge", "n"], ["日本語", "3", "a\x1b", "n"]]
    assert lines(COLUMNS, rows)[0] == "Queue     Jobs  Job               Note"
    assert lines(COLUMNS, rows, 34) == lines([*COLUMNS[:3]], [row[:3] for row in rows])
    assert lines(COLUMNS, rows, 20) == ["Queue   Jobs  Job", "pay…ts    12  sho…ge", "日本語     3  a\\x1b"]


@pytest.mark.parametrize("width", range(60))
def test_no_line_of_a_table_is_wider_than_asked(width: int) -> None:
    rows = [["payments" * 3, "1,000,000", "shop.jobs.charge" * 2, "note" * 4], ["日本語" * 5, "", "", ""]]
    for line in lines(COLUMNS, rows, width):
        assert len(line) + sum(mark in "日本語" for mark in line) <= width


def test_further_lines_of_a_record_stand_under_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    record([("A", "1"), ("Long", "2\n3"), ("B", "")])
    assert capsys.readouterr().out == "A     1\nLong  2\n      3\nB\n"


def test_json_takes_what_the_api_gives(capsys: pytest.CaptureFixture[str]) -> None:
    class Model:
        def model_dump(self, *, mode: str) -> dict[str, str]:
            return {"mode": mode}

    @dataclass
    class Thing:
        at: datetime
        state: State
        model: Model
        path: object

    emit_json(Thing(NOW, State.DONE, Model(), complex(1, 2)))
    words = ['"at": "2026-01-02T03:04:05Z"', '"state": "done"', '"mode": "json"', '"path": "(1+2j)"']
    out = capsys.readouterr().out
    assert [word for word in words if word not in out] == []


def test_control_characters_are_shown_and_counts_have_their_noun() -> None:
    assert printable("a\x1b[2Jé\u202e") == "a\\x1b[2Jé\\u202e"
    assert (count(1, "job"), count(1_200, "job")) == ("1 job", "1,200 jobs")


STEERING = "\x07\x1b\x7f\x85\x9b\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\n"


def test_json_is_the_same_value_without_what_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {f"key{STEERING}": [STEERING, "é 日本語", "😀", "\U000e0041"]}
    emit_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert not set(text.replace("\n", "")) & set(STEERING)
    assert "é 日本語" in text
    assert all(mark.isprintable() or mark == "\n" for mark in text)
    assert json.loads(inline(value)) == value
    assert "\n" not in inline(value)
    assert inline(value).isprintable()


@pytest.mark.parametrize(
    "words",
    [
        ["jobs", "show"],
        ["jobs", "show", "--json"],
        ["jobs", "ls", "--json"],
        ["jobs", "watch"],
        ["explain"],
        ["dead", "ls"],
        ["dead", "groups"],
        ["dead", "show"],
        ["dead", "export", "-"],
        ["dead", "export", "/dev/stdout"],
    ],
)
def test_nothing_that_a_job_says_steers_the_terminal(words: list[str], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/w.db"
    with Windlass(url, attempts=1, reap="50ms") as app:

        @app.job(name="evil", tags=["x"])
        def evil(ctx: JobContext, text: str) -> None:
            ctx.progress(1, message=text)
            raise Dead(text)

        job_id = evil.enqueue(STEERING).id
        worker_of(app, burst=True).run()
    takes_id = {"show", "watch", "explain"} & set(words)
    result = CliRunner().invoke(cli, ["--url", url, *words, *([job_id] if takes_id else [])])
    assert "x1b" in result.stdout or "u001b" in result.stdout, result.stderr
    assert not set(result.output.replace("\n", "")) & set(STEERING)
