"""The shop's application: one object that jobs, workers and scripts share.

The store comes from ``WINDLASS_URL``; without it, a SQLite file in the current directory.
"""

from windlass import Windlass

app = Windlass()
