"""A small shop that takes payments through windlass."""
