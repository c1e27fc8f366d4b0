"""Which address of a learner's host a connection uses.

libzmq resolves a name in one family for each socket and tries one address. IPv4 comes first: a name with
both (localhost on many machines) may belong to a learner that binds to IPv4 alone.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket


def host_and_port(endpoint: str) -> tuple[str, int]:
    """The two parts of a TCP endpoint; an IPv6 address without its brackets."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


@functools.cache  # successes only; a lookup in an outage of DNS blocks for 10 s and more
def family(host: str) -> socket.AddressFamily:
    """IPv4 if the host has such an address, else IPv6. A process resolves each host once.

    Raises:
        OSError: the name has no address.
    """
    with contextlib.suppress(ValueError):  # not a literal address
        return socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
    found = {entry[0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return socket.AF_INET if socket.AF_INET in found else socket.AF_INET6


def connect(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """A plain TCP connection to an address that a socket of libzmq would use.

    Raises:
        OSError: the name has no address, or nothing accepts there.
    """
    *_, where = socket.getaddrinfo(host, port, family(host), socket.SOCK_STREAM)[0]
    return socket.create_connection((str(where[0]), port), timeout_seconds)
