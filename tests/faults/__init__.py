"""Faults against real worker processes. ``harness`` breaks and checks, ``jobs`` is what the fleet runs."""
