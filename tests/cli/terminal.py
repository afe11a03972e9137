"""The command on a real terminal, as a shell runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

from cli_shop import Shop

from kit.waiting import PATIENCE, until

__all__ = ["Terminal"]

HOME = b"\x1b[H"
MODES = {25: "h", 7: "h", 1049: "l"}  # cursor, wrapping, alternate screen: how they are left
ESCAPE = re.compile(r"\x1b\[[?0-9]*[a-zA-Z]")

# As a shell runs a program: in a process group of its own, in the foreground, told when it stops.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "windlass.cli.main", *sys.argv[1:]])
print(pid, file=sys.stderr, flush=True)
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        print("stopped", file=sys.stderr, flush=True)
    else:
        os.tcsetpgrp(0, os.getpid())
        print(os.waitstatus_to_exitcode(status), file=sys.stderr, flush=True)
        break
"""


class Terminal:
    """A command, ``windlass top`` if no other is given, on a terminal of its own."""

    def __init__(self, shop: Shop, *command: str, columns: int = 80, rows: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.modes = termios.tcgetattr(self.slave)
        self.seen = b""
        self.shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, *(command or ("top",)), "--every", "100ms", "--url", shop.url],
            cwd=shop.folder,
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=0,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        self.pid = int(self.told())

    def told(self) -> str:
        """The next line that the shell says."""
        assert self.shell.stderr is not None
        assert select.select([self.shell.stderr], [], [], PATIENCE)[0], self.seen[-3_000:].decode()
        return self.shell.stderr.readline().strip()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        while select.select([self.master], [], [], 0.01)[0]:
            self.seen += os.read(self.master, 65_536)

    def frame(self) -> list[str] | None:
        """The last picture that is whole, as lines."""
        frames = self.seen.split(HOME)
        text = "" if len(frames) < 3 else frames[-2].decode()
        return [ESCAPE.sub("", line) for line in re.split("\r*\n", text)] if text else None

    def until(self, look: Callable[[], object]) -> None:
        until(lambda: self.read() or look(), said=lambda: self.seen[-3_000:].decode())

    def frames_from_now(self) -> None:
        """Wait for a picture that begins after this moment."""
        self.read()
        self.seen = b""
        self.until(self.frame)

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def has_keys(self) -> bool:
        """Whether keys come without Enter."""
        local = termios.tcgetattr(self.slave)[3]
        assert isinstance(local, int)
        return not local & termios.ICANON

    def restored(self) -> bool:
        """Whether modes, cursor, wrapping and screen are as they were."""
        self.read()
        last = {mode: max("hl", key=lambda to, m=mode: self.seen.rfind(f"\x1b[?{m}{to}".encode())) for mode in MODES}
        return termios.tcgetattr(self.slave) == self.modes and last == MODES

    def close(self) -> None:
        if self.shell.poll() is None:
            self.shell.kill()  # a terminal without its shell hangs up on the rest
        self.shell.wait(PATIENCE)
        assert self.shell.stderr is not None
        self.shell.stderr.close()
        os.close(self.master)
        os.close(self.slave)
