"""One holder of the lock tests: takes a lock again and again, and writes what it holds to the ledger."""

from __future__ import annotations

import os
import sys
import time

from guards.fleet_app import app, write
from windlass import LockLost


def main(turns: int) -> None:
    for _ in range(turns):
        with app.lock("k", lease="1s", wait="10m") as lock:
            write("enter", lock.fence, os.getpid())
            time.sleep(0.03)
            try:
                lock.check()
            except LockLost:
                write("lost", lock.fence)
            else:
                write("leave", lock.fence)


if __name__ == "__main__":
    main(int(sys.argv[1]))
