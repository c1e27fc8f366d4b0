"""Resolves the host name of a learner to the address that a connection uses.

libzmq resolves a name in one address family per socket, and tries one address. IPv4 is preferred: a name with
addresses of both families (localhost on many machines) may belong to a learner that binds to IPv4 alone.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from collections.abc import Iterable


def host_and_port(endpoint: str) -> tuple[str, int]:
    """The host and the port of a TCP endpoint; an IPv6 address is returned without brackets."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def ports(endpoints: Iterable[str]) -> set[int]:
    """The ports of the TCP endpoints among `endpoints`."""
    return {host_and_port(endpoint)[1] for endpoint in endpoints if endpoint.startswith("tcp://")}


def is_loopback_host(host: str) -> bool:
    """Whether a name or an address without brackets always belongs to this machine's loopback interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


@functools.cache  # caches successes only; a lookup during a DNS outage blocks for 10 s and more
def family(host: str) -> socket.AddressFamily:
    """The address family to use: IPv4 if the host has an IPv4 address, else IPv6. The result is cached.

    Raises:
        OSError: the name has no address.
    """
    with contextlib.suppress(ValueError):  # not a literal address
        return socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
    found = {entry[0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return socket.AF_INET if socket.AF_INET in found else socket.AF_INET6


def connect(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """Open a TCP connection to the address that a ZeroMQ socket would use.

    Raises:
        OSError: the name has no address, or the connection is refused.
    """
    *_, address = socket.getaddrinfo(host, port, family(host), socket.SOCK_STREAM)[0]
    return socket.create_connection((str(address[0]), port), timeout_seconds)
