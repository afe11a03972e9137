"""The notes of one job as a run of it knows them, and how much a job may note.

Pure. A claim brings all notes of the job along, and nobody but its run may write others. So what is here is what the
store has or is about to have, and the bounds of ``caps`` are checked here, where the code that notes too much hears it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from windlass.core import caps
from windlass.core.errors import ConfigError, PayloadError
from windlass.core.ids import UNSAFE
from windlass.core.stall import STALL

__all__ = ["Notebook", "check_note_key"]


def check_note_key(key: str) -> str:
    """Give back the key of a note, or raise ConfigError: 1 to 200 characters, none of them a control character."""
    if not 1 <= len(key) <= caps.KEY:
        raise ConfigError(f"the key {key[:40]!r} of a note has {len(key)} characters; use 1 to {caps.KEY}")
    if bad := UNSAFE.search(key):
        raise ConfigError(f"the key {key!r} of a note has the character {bad[0]!r} at {bad.start()}; remove it")
    return key


class Notebook:
    """What a job has noted, by key. *Thread-safe.*"""

    def __init__(self, job_id: str, notes: Iterable[tuple[str, str]]) -> None:
        self._job_id = job_id
        self._texts = {key: text for key, text in notes if key != STALL}  # that one is its worker's
        self._size = sum(map(size_of, self._texts.items()))
        self._lock = threading.Lock()

    def get(self, key: str) -> str | None:
        """The text that was noted last."""
        return self._texts.get(key)

    def check(self, key: str, value: str) -> None:
        """Raise as ``put`` does for a text that may not be noted; note nothing."""
        with self._lock:
            self._size_with(key, value)

    def put(self, key: str, value: str | None) -> None:
        """Note a text, or forget one. Raises ConfigError for the key, PayloadError for what cannot be stored."""
        with self._lock:
            self._size = self._size_with(key, value)
            if value is None:
                self._texts.pop(key, None)
            else:
                self._texts[key] = value

    def _size_with(self, key: str, value: str | None) -> int:
        """The bytes of all notes once this one is among them."""
        check_note_key(key)
        old = self._texts.get(key)
        size = self._size - (0 if old is None else size_of((key, old)))
        if value is None:
            return size
        try:
            mine = size_of((key, value))
        except UnicodeEncodeError as error:
            raise PayloadError(f"note {key!r} of job {self._job_id} is no text that can be stored: {error}") from error
        size += mine
        for what, number, most in (
            (f"note {key!r} takes bytes", mine, caps.NOTE_SIZE),
            ("all notes take bytes", size, caps.NOTES_SIZE),
            ("there are notes", len(self._texts) + (old is None), caps.NOTES),
        ):
            if number > most:
                raise PayloadError(
                    f"job {self._job_id} notes too much: {what}: {number:,}, and the most is {most:,}. Each step is a "
                    "note: split the job, or keep values elsewhere and note where"
                )
        return size


def size_of(note: tuple[str, str]) -> int:
    """The bytes of key and text."""
    return sum(len(part.encode()) for part in note)
