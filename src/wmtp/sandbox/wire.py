"""Length-prefixed messages over a stream socket, with at most a few file descriptors attached."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

HEADER = struct.Struct(">I")
MAX_DESCRIPTORS = 4


class MessageTooLarge(Exception):
    """The other side announced a message above the limit."""


def send(connection: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message, with file descriptors for `receive_with_descriptors` if there are any.

    An error means that the other side has not got it: one that answers and leaves at once is no error.
    """
    message = HEADER.pack(len(payload)) + payload
    if descriptors:
        message = message[socket.send_fds(connection, [message], descriptors) :]
    if message:
        connection.sendall(message)


def receive(connection: socket.socket, limit_bytes: int = 0xFFFF_FFFF) -> bytes:
    """Return the next message; `EOFError` when the peer has closed the connection."""
    return _body(connection, _exactly(connection, HEADER.size), limit_bytes)


def receive_with_descriptors(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next message and the file descriptors that came with it."""
    header, descriptors, _, _ = socket.recv_fds(connection, HEADER.size, MAX_DESCRIPTORS)
    if not header:
        raise EOFError
    header += _exactly(connection, HEADER.size - len(header))
    return _body(connection, header, 0xFFFF_FFFF), list(descriptors)


def _body(connection: socket.socket, header: bytes, limit_bytes: int) -> bytes:
    (length,) = HEADER.unpack(header)
    if length > limit_bytes:
        raise MessageTooLarge(f"{length} bytes, the limit is {limit_bytes}")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
