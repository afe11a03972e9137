"""One attempt of one job, from its lease to its outcome. Every Outcome of a run is made here."""
