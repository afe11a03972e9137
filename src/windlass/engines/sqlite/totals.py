"""Totals since the store was made: one row a name, raised once per batch. For people; nothing is decided by them."""

from __future__ import annotations

from typing import Final

import apsw

from windlass.engines.sqlite.schema import Sql

__all__ = ["add_total"]

ADD: Final = """
INSERT INTO "windlass_totals" (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value
"""


def add_total(db: apsw.Connection, q: Sql, name: str, count: int) -> None:
    """Raise a total by ``count``."""
    if count:
        db.execute(q(ADD), (name, count))
