"""The applications of the measured worker: ``windlass -A windlass.bench.apps:sync_app worker``."""

from __future__ import annotations

from windlass.app import Windlass
from windlass.bench.jobs import AsyncJobs, SyncJobs

__all__ = ["async_app", "sync_app"]

sync_app = Windlass()
SyncJobs(sync_app)

async_app = Windlass()
AsyncJobs(async_app)
