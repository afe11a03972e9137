"""What ``ps`` and ``top`` show of the processes of a worker: which is which."""

from __future__ import annotations

from setproctitle import setproctitle

__all__ = ["set_title"]


def set_title(role: str, app: str) -> None:
    """Show this process as ``windlass ROLE APP``."""
    setproctitle(f"windlass {role} {app}")
