"""What ``windlass worker -A faults.worker_app:app`` loads."""

from __future__ import annotations

from faults.jobs import fleet_app

app = fleet_app()
