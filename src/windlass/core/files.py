"""Files that others may have put in our way: how windlass opens, makes and replaces what it reads and writes.

Knows no path of its own. Invariants: a path that somebody else prepared is never written to, whatever it is (a link, a
device, a pipe, a folder, a file of another user); opening never waits for the other end of a pipe; a new file is for
its owner only, and is made anew, not taken over. What is refused is a ``FileRefused``, an OSError, that says why.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

from windlass.core.errors import FileRefused

__all__ = ["PRIVATE", "descriptor_of", "kind_of", "make_folder", "open_own", "open_source", "replacing", "sync_folder"]

PRIVATE: Final = 0o600
QUIET: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe without a reader, a terminal: neither may hold us up

STANDARD: Final = ("/dev/stdin", "/dev/stdout", "/dev/stderr")  # the place in here is the descriptor
KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(mode: int) -> str | None:
    """What stands at a path when it is no regular file; None for one."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no regular file")


def open_own(path: str, flags: int, *, mode: int = PRIVATE, owners: Collection[int] | None = None) -> tuple[int, bool]:
    """Open a regular file of ours, made with ``mode`` where ``flags`` have O_CREAT; give it, and whether it is new.

    ``owners`` are the users whose file it may be; without them only our own. No link is followed, also no second name
    of a file (a hard link). Raises FileRefused, or another OSError. The mode is subject to the umask.
    """
    create = flags & os.O_CREAT
    flags = (flags & ~os.O_CREAT) | os.O_NOFOLLOW | QUIET
    while True:
        try:
            fd, new = os.open(path, flags), False
        except FileNotFoundError:
            if not create:
                raise
            try:
                return os.open(path, flags | os.O_CREAT | os.O_EXCL, mode), True
            except FileExistsError:
                continue  # somebody was quicker: look at what it is
        except OSError as error:
            raise _explained(path, error) from error
        try:
            _check(path, os.fstat(fd), (os.geteuid(),) if owners is None else owners)
        except BaseException:
            os.close(fd)
            raise
        return fd, new


def open_source(path: str) -> BinaryIO:
    """Open a file that was named to us, to read it from the start, perhaps more than once. Links are followed.

    Raises FileRefused for what is no regular file: a pipe could be read once only, and a device has no end.
    """
    fd = os.open(path, os.O_RDONLY | QUIET)
    try:
        kind = kind_of(os.fstat(fd).st_mode)
        if kind is not None:
            raise FileRefused(errno.EINVAL, f"it is {kind}; give a regular file", path)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Write a file that appears under ``path`` whole or not at all, for its owner only.

    It is written under a name that nobody can guess, so nobody can be there before us, and takes the place of a regular
    file or of nothing. A path that stands for a descriptor of this process, such as ``/dev/stdout``, is written to as
    it is. Raises FileRefused, or another OSError.
    """
    if (inherited := descriptor_of(path)) is not None:
        with os.fdopen(os.dup(inherited), "wb") as file:
            yield file
        return
    _check_replaceable(path)
    part = os.path.join(os.path.dirname(path), f".windlass-{os.urandom(16).hex()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        _check_replaceable(path)  # it took a while to write
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    with suppress(OSError):  # the file is there: whoever may not read the folder is not told otherwise
        sync_folder(path)


def make_folder(path: str) -> None:
    """Make a folder for its owner only, or take one of ours that is there. Raises FileRefused, or another OSError."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise FileRefused(errno.ENOTDIR, "it is no folder; move it away", path)
    _check_owner(path, found, (os.geteuid(),))


def descriptor_of(path: str) -> int | None:
    """The descriptor of this process that a path stands for, such as ``/dev/stdout`` or ``/dev/fd/63``; else None."""
    if path in STANDARD:
        return STANDARD.index(path)
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", path)
    return None if found is None else int(found[1])


def sync_folder(path: str) -> None:
    """Put the name of a new file on disk."""
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check(path: str, found: os.stat_result, owners: Collection[int]) -> None:
    kind = kind_of(found.st_mode)
    if kind is not None:
        raise _not_a_file(path, kind)
    _check_owner(path, found, owners)
    if found.st_nlink > 1:
        raise FileRefused(
            errno.EMLINK, "it has a second name (a hard link), and may be somebody else's; name another file", path
        )


def _check_owner(path: str, found: os.stat_result, owners: Collection[int]) -> None:
    if found.st_uid not in owners:
        raise FileRefused(
            errno.EPERM,
            f"it belongs to user {found.st_uid}, and this is user {os.geteuid()}; move it away, or name another",
            path,
        )


def _check_replaceable(path: str) -> None:
    try:
        kind = kind_of(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if kind is not None:
        raise _not_a_file(path, kind)


def _not_a_file(path: str, kind: str) -> FileRefused:
    return FileRefused(errno.EEXIST, f"it is {kind}, which is not written to; name a regular file or a new one", path)


def _explained(path: str, error: OSError) -> OSError:
    """An error of opening, with what stands there where that is why: the system's own words leave one guessing."""
    try:
        kind = kind_of(os.lstat(path).st_mode)
    except OSError:
        return error
    return error if kind is None else _not_a_file(path, kind)
