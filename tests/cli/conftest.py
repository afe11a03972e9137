from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_shop import Shop

from windlass import Windlass


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name in [name for name in os.environ if name.startswith("WINDLASS_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)
    (tmp_path / ".git").mkdir()  # no settings file above this directory counts
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shop = Shop(tmp_path)
    with Windlass(shop.url) as app:  # looking makes no store, and most tests look
        app.engine.open()
    yield shop
    for name in [name for name in sys.modules if name.startswith("cli_shop_")]:
        del sys.modules[name]
