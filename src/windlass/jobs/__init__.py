"""Row 3: what user code sees of a job: its definition and calls, its context while it runs, its handle afterwards."""
