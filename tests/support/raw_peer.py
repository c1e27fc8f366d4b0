"""A peer of a ZeroMQ port over a plain TCP socket, which may break the rules that libzmq keeps for its users.

It speaks the security mechanism NULL of ZMTP 3 (RFC 23).
"""

from __future__ import annotations

import itertools
import socket
import struct

from tests.support.processes import PATIENCE_SECONDS

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"  # of ZMTP 3, to which a mechanism of 20 bytes belongs
PING = b"\x04\x07\x04PING\x00\x00"
_RECEIVE_BUFFER_BYTES = 65_536  # small, so that most of what is unread waits at the other end


def handshake(routing_id: bytes = b"") -> bytes:
    """The first bytes of a DEALER without keys, which may ask for a routing id."""
    identity = b"\x08Identity" + len(routing_id).to_bytes(4, "big") + routing_id if routing_id else b""
    ready = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER" + identity
    return (GREETING + b"NULL").ljust(64, b"\0") + b"\x04" + bytes([len(ready)]) + ready


def message(part: bytes) -> bytes:
    """A message of one short part."""
    return b"\x00" + bytes([len(part)]) + part


def connect(port: int, routing_id: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
    """Connect from `address` to a ROUTER on loopback, and read until it has completed the handshake."""
    connection = socket.socket()
    connection.bind((address, 0))
    connection.settimeout(PATIENCE_SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    connection.connect(("127.0.0.1", port))
    connection.sendall(handshake(routing_id))
    received = b""
    while b"ROUTER" not in received:
        part = connection.recv(4096)
        assert part, "expected a handshake, got the end of the connection"
        received += part
    return connection


def reset(connection: socket.socket) -> None:
    """Close a connection with a reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send_until_closed(connection: socket.socket, block: bytes, limit_bytes: int) -> int:
    """Send a block again and again until the other end closes the connection; return the bytes.

    Raises:
        AssertionError: the connection is open after `limit_bytes`, or takes no more bytes.
    """
    sent_bytes = 0
    try:
        for sent_bytes in itertools.count(0, len(block)):
            assert sent_bytes < limit_bytes, "expected the end of the connection"
            connection.sendall(block)
    except TimeoutError:
        raise AssertionError("expected the end of the connection, got one that is not read") from None
    except ConnectionError:
        return sent_bytes
    finally:
        connection.close()
    return sent_bytes
