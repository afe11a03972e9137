"""Row 4: answers for people: queues and workers, figures, and why a job does not run."""
