"""The line of a settings file that is to blame."""

from __future__ import annotations

import pytest

from windlass.settings.toml_lines import line_of

TEXT = """\
[windlass]  # the root
url = "sqlite:///a.db"

[windlass.pools]
critical = { threads = 2 }
"a.b" = { threads = 1 }

[ windlass . pools . low ]
threads = 0
queues = ["low"]

[windlass.env.test]
queues.mail.max_wait = "5m"
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (["windlass", "url"], 2),
        (["windlass", "pools"], 4),
        (["windlass", "pools", "critical"], 5),
        (["windlass", "pools", "critical", "threads"], 5),
        (["windlass", "pools", "a.b"], 6),
        (["windlass", "pools", "low"], 8),
        (["windlass", "pools", "low", "threads"], 9),
        (["windlass", "env", "test", "queues", "mail", "max_wait"], 13),
        (["windlass", "nothing"], 1),
        (["tool"], None),
    ],
)
def test_a_key_is_found_or_its_nearest_parent(path: list[str], line: int | None) -> None:
    assert line_of(TEXT, path) == line


def test_what_is_no_toml_gives_no_line() -> None:
    assert line_of("[[[\n= 3\n\x00", ["a"]) is None
