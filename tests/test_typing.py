"""The API as a type checker sees it: what must pass, and what must be an error, line by line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
API = ROOT / "tests" / "typing" / "api.py"


def test_the_type_checker_accepts_and_refuses_exactly_what_is_marked() -> None:
    wanted = {
        (number, code)
        for number, line in enumerate(API.read_text().splitlines(), 1)
        if (mark := re.search(r"# E: (.+)$", line))
        for code in mark[1].split(", ")
    }
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(API)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stderr == ""
    found = {
        (int(match[1]), match[2])
        for match in re.finditer(r"^tests/typing/api\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    }
    assert wanted
    assert found == wanted, done.stdout
