"""Row 4: everything that runs jobs. One role, one file; ``worker.py`` puts them together.

    supervisor ── zygote ── worker process: pump (claim and settle) → threads, loop, processes → execute
    (signals,     (loads                     heart (renews, fences)   deadlines (timeouts)   keeper (maintain)
     deaths)       the app, forks)

Takes Engine, Registry, Settings and Events by argument and never knows the application object.
"""
