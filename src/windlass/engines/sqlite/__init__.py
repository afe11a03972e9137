"""The embedded engine: one SQLite file, any number of processes and threads on one machine; nothing to start."""

from windlass.engines.sqlite.engine import SqliteEngine

__all__ = ["SqliteEngine"]
