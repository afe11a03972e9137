"""Framed messages over a Unix socket between the processes of one worker: four bytes of length, then the message.

File descriptors ride with the first byte of a frame. Both ends are processes of the same program and the same user;
nothing from a store or a network comes this way.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

__all__ = ["receive", "receive_fds", "send", "send_fds"]

HEADER = struct.Struct("!I")


def send(sock: socket.socket, message: bytes) -> None:
    """Send one message. *Blocking.*"""
    sock.sendall(HEADER.pack(len(message)) + message)


def receive(sock: socket.socket) -> bytes:
    """Receive one message. *Blocking.* Raises EOFError when the other end has gone."""
    (size,) = HEADER.unpack(read(sock, HEADER.size))
    return read(sock, size)


def send_fds(sock: socket.socket, message: bytes, fds: Sequence[int]) -> None:
    """Send one message together with descriptors."""
    frame = HEADER.pack(len(message)) + message
    sent = socket.send_fds(sock, [frame], fds)
    sock.sendall(frame[sent:])


def receive_fds(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Receive one message and up to ``most`` descriptors that came with it."""
    head, fds, _, _ = socket.recv_fds(sock, HEADER.size, most)
    if not head:
        raise EOFError("the other process has gone")
    if len(head) < HEADER.size:
        head += read(sock, HEADER.size - len(head))
    (size,) = HEADER.unpack(head)
    return read(sock, size), list(fds)


def read(sock: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes."""
    parts = []
    while size:
        part = sock.recv(size)
        if not part:
            raise EOFError("the other process has gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
