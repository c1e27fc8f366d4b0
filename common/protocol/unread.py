"""Bounds the bytes of TCP connections that arrive faster than they are read.

libzmq 4.3.5 aborts if a connection is reset while its receive queue is full and a PING waits behind it, so
the queues of TCP connections have no limit. Instead a connection is shut down if the kernel has received too
many bytes from it that the socket has not read: in whole messages, in one that never ends, or with a routing
id of another connection, whose messages libzmq does not hand over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket as sockets
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass

from common.protocol.frames import Received

MEASURABLE = sys.platform == "linux"  # only Linux counts the bytes of a connection
_MESSAGES = 4  # unread ones of the largest size; an actor has fewer in flight
_BYTES_MIN = 2**20  # of the limit
_FRAME_BYTES = 42  # what ZMTP and CURVE add to a frame, at most
_RESET = struct.pack("ii", 1, 0)
_INFO_BYTES, _RECEIVED = 136, 128  # of `struct tcp_info` with `tcpi_bytes_received`, and where this is


@dataclass(frozen=True, slots=True)
class Dropped:
    """A connection that was shut down."""

    address: str
    key: str  # of its last message; empty if it sent none that was read, or on a port without keys
    unread_bytes: int


@dataclass(slots=True)
class _Connection:
    read_bytes: int = 0
    peer: bytes = b""
    key: str = ""


class UnreadBytes:
    """Counts the unread bytes of the accepted connections of one socket, by descriptor.

    Only libzmq knows when a descriptor is closed. Therefore one that has become another connection may be
    measured, but its number of read bytes is never more than it received.
    """

    def __init__(self, message_bytes: int) -> None:
        self.dropped: set[bytes] = set()  # the peers whose messages are discarded, as long as some are left
        self._limit_bytes = max(_MESSAGES * message_bytes, _BYTES_MIN)
        self._connections: dict[int, _Connection] = {}
        self._getsockopt = ctypes.CDLL(None).getsockopt  # the socket class would own and close a descriptor
        self._info = ctypes.create_string_buffer(_INFO_BYTES)
        self._info_length = ctypes.c_uint32()
        self._info_reference = ctypes.byref(self._info_length)
        self._received_bytes = ctypes.c_uint64.from_buffer(self._info, _RECEIVED)

    def accept(self, descriptor: int) -> None:
        """Count the bytes of a new connection."""
        self._connections[descriptor] = _Connection()

    def count(self, descriptor: int, message: Received) -> None:
        """Count a message that was read."""
        connection = self._connections.get(descriptor)
        if connection is not None:
            frames = len(message.parts) + message.excess_parts
            connection.read_bytes += (
                sum(map(len, message.parts)) + message.excess_bytes + _FRAME_BYTES * frames
            )
            connection.peer, connection.key = message.peer, message.key

    def drop(self, ports: Collection[int]) -> list[Dropped]:
        """Shut down the connections at these ports that have more unread bytes than the limit."""
        dropped = []
        for descriptor, connection in list(self._connections.items()):
            received_bytes = self._measure(descriptor)
            connection.read_bytes = min(connection.read_bytes, received_bytes)
            if received_bytes < 0:
                del self._connections[descriptor]
            elif received_bytes - connection.read_bytes > self._limit_bytes:
                with contextlib.suppress(OSError):  # closed meanwhile, or no descriptor is free: try again
                    dropped += self._shut_down(descriptor, connection, ports)
        return dropped

    def _measure(self, descriptor: int) -> int:
        """The bytes that the kernel has received; -1 if this is no TCP connection now."""
        if not MEASURABLE:
            return -1
        self._info_length.value = _INFO_BYTES
        arguments = descriptor, sockets.IPPROTO_TCP, sockets.TCP_INFO, self._info, self._info_reference
        failed = self._getsockopt(*arguments) or self._info_length.value < _INFO_BYTES
        return -1 if failed else self._received_bytes.value

    def _shut_down(self, descriptor: int, connection: _Connection, ports: Collection[int]) -> list[Dropped]:
        """Shut down a connection, unless its descriptor has become another one; libzmq then closes it."""
        with sockets.socket(fileno=os.dup(descriptor)) as duplicate:
            unread_bytes = self._measure(duplicate.fileno()) - connection.read_bytes
            if unread_bytes <= self._limit_bytes or duplicate.getsockname()[1] not in ports:
                return []
            address = duplicate.getpeername()[0]
            duplicate.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _RESET)  # leave nothing to the kernel
            duplicate.shutdown(sockets.SHUT_RDWR)
        del self._connections[descriptor]
        self.dropped.add(connection.peer)
        return [Dropped(address, connection.key, unread_bytes)]
