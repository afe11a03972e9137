"""Files of another user, for whoever runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STRANGER = 54_321


def belongs_to_a_stranger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root gives the file away; anybody else becomes somebody else, which is the same seen from the file."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
