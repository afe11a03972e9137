"""What makes two deaths the same: the exception's class, the application's function it came from, the cause's class.

Pure. It must not look at messages or line numbers: those differ from job to job and from deploy to deploy. Invariants:
a fingerprint is 12 hexadecimal digits, the same on every machine; nothing here fails, whatever was raised.
"""

from __future__ import annotations

import sysconfig
from types import CodeType, FrameType, TracebackType
from typing import Final

from windlass.core import caps
from windlass.core.foreign import kind_name
from windlass.core.model import Cause

__all__ = ["DAMAGED", "INTERRUPTED", "POISON", "cause_of", "type_name"]

LIBRARIES: Final = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
OURS: Final = __name__.partition(".")[0]


def type_name(kind: type[BaseException]) -> str:
    """Give the dotted name of an exception class; builtins stand without a module."""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def cause_of(error: BaseException, home: str = "") -> Cause:
    """Give what a death by this error has in common with others. ``home`` is the module of the job."""
    try:
        return _seen(error, home)
    except BaseException:  # noqa: BLE001 - an exception class may hide its module or its cause behind code that fails
        return _cause(kind_name(error))


def _seen(error: BaseException, home: str) -> Cause:
    frame = _top_frame(error.__traceback__, home.partition(".")[0])
    inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return _cause(type_name(type(error)), frame, "" if inner is None else type_name(type(inner)))


def _cause(error_type: str, frame: str = "", inner: str = "") -> Cause:
    import hashlib  # late: it loads OpenSSL, and only a death needs it

    error_type, frame = plain(error_type), plain(frame)
    text = "\0".join((error_type, frame, inner))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Cause(error_type, digest[:12], frame)


def plain(name: str) -> str:
    """Make a name that code may have given itself fit to be stored and shown."""
    name = name[: caps.JOB_NAME]
    return name if name.isprintable() else "".join(mark if mark.isprintable() else "\ufffd" for mark in name)


def _top_frame(trace: TracebackType | None, home: str) -> str:
    """The innermost function of the application; where there is none, the one that was called first."""
    first = top = ""
    while trace is not None:
        frame = trace.tb_frame
        package = _module(frame).partition(".")[0]
        if package != OURS:
            if package == home or not _is_library(frame.f_code):
                top = _name(frame)
            first = first or _name(frame)
        trace = trace.tb_next
    return top or first


def _is_library(code: CodeType) -> bool:
    return code.co_filename.startswith(LIBRARIES) or code.co_filename.startswith("<frozen ")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _name(frame: FrameType) -> str:
    return f"{_module(frame)}.{frame.f_code.co_qualname}"


# Deaths that nobody saw from within: the process died too often or was taken away too often, or the record was damaged.
# Their fingerprints are written out, since making them would load OpenSSL into every process that imports us; a test
# makes them.
POISON: Final = Cause("WorkerCrashed", "12847a95e5d0", "")
INTERRUPTED: Final = Cause("windlass.errors.JobInterrupted", "805e2c17a76d", "")
DAMAGED: Final = Cause("windlass.errors.RecordDamaged", "200c2301b2e0", "")
