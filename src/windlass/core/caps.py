"""How much of anything may enter a store: one table, read by every check.

Pure. Must not check anything itself: ``units``, ``ids``, ``option_values``, ``setting_values``, ``records`` and others
do, where a value is written down, loaded or typed. Numbers, names and instants beyond these bounds are refused with an
error that names them; words that explain something (a reason, a message) are shortened, since nobody should fail to
pause a queue over the length of the reason.

Invariants: an instant plus the longest length of time is still a date that Python can show (before the year 10,000) and
an exact number in a double (below 2**53); the longest length fits what threads and sockets can wait for.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ATTEMPTS",
    "CHARGES",
    "COUNT",
    "DURATION_MS",
    "ERRORS_SIZE",
    "FACTS_SIZE",
    "GUARDS",
    "HISTORY",
    "HISTORY_SIZE",
    "ID",
    "INSTANT_MS",
    "JOB_NAME",
    "KEY",
    "NAME",
    "NOTES",
    "NOTES_SIZE",
    "NOTE_SIZE",
    "NUMBER",
    "PRIORITY",
    "PROCESSES",
    "REASON",
    "RECOVERIES",
    "SLOTS",
    "STALL_SIZE",
    "TAGS",
    "TEXT",
    "VALUE_SIZE",
    "WAIT_MS",
]

DURATION_MS: Final = 200 * 365 * 86_400_000  # threading.TIMEOUT_MAX is 292 years
WAIT_MS: Final = 24 * 86_400_000  # of settings that a process waits for: poll() counts milliseconds in 31 bits
INSTANT_MS: Final = 221_845_392_000_000  # the first that is too late: the year 9000

COUNT: Final = 1_000_000  # of limits, rates, bursts, calls
ATTEMPTS: Final = 1_000_000
RECOVERIES: Final = 1_000
PRIORITY: Final = 1_000
PROCESSES: Final = 1_000
SLOTS: Final = 10_000  # threads or places for coroutines of one process
CHARGES: Final = 2**31  # crashes, interruptions, snoozes of a job
NUMBER: Final = 2**53  # of fences, and of what else only counts up; a double holds no more

ID: Final = 200  # characters, as all below that are not sizes
NAME: Final = 128  # of a queue, circuit or namespace
JOB_NAME: Final = 256
TEXT: Final = 128  # of a tag or version
TAGS: Final = 100
KEY: Final = 200  # of a guard; a longer one is shortened with a hash of the whole
GUARDS: Final = 32  # of one job: once, circuit, limits
NOTES: Final = 10_000  # of one job: each step of it is one; a key has KEY characters
REASON: Final = 1_000  # of a reason, or of who gave it

VALUE_SIZE: Final = 256 * 2**20  # bytes: the most that payload_max and result_max may say; Redis takes 512 MiB
ERRORS_SIZE: Final = 16 * 2**20  # bytes: the most that error_max may say
HISTORY: Final = 2**20  # of all the errors of a job; from there on the second ones go, the first and the last stay
HISTORY_SIZE: Final = 64 * 2**20  # bytes of all the errors of a job that is loaded
NOTE_SIZE: Final = 2**20  # bytes of the text of a note
NOTES_SIZE: Final = 16 * 2**20  # bytes of all the notes of a job, keys included: each of its claims brings them along
STALL_SIZE: Final = 16 * 2**10  # bytes of what is noted of a stalled job
FACTS_SIZE: Final = 64 * 2**10  # bytes of what else a job that is loaded brings: progress, what its call said
