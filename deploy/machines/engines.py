"""Names of container engines, connections to them, and their errors as sentences."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import docker
import requests
from docker import DockerClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.utils.config import find_config_file

from common.process.lifecycle import EXIT_TEMPORARY
from deploy.machines.errors import MachineError

CONNECT_SECONDS = 10  # for one request while a connection is made, and for the requests of `status`
_REQUEST_SECONDS = 300  # an engine answers the upload of an image after it has unpacked it
_NAME_LENGTH = 32  # of a key's name
_SCHEMES = ("ssh", "tcp")
_REASON_LENGTH = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine and the name of its machine."""

    name: str  # also the name of the machine's key
    address: str  # a Docker context, ssh://USER@HOST or tcp://HOST:PORT


def parse(text: str) -> Engine:
    """Read `[NAME=]ADDRESS`. The default name is the host of the address, or the name of the context.

    Raises:
        ValueError: the address has another form; the text is one sentence.
    """
    name, _, address = text.rpartition("=")
    scheme = address.partition("://")[0] if "://" in address else None
    host = urlsplit(address).hostname if scheme else address
    if not host or (scheme and scheme not in _SCHEMES):
        raise ValueError(f"expected a Docker context, ssh://USER@HOST or tcp://HOST:PORT, got {address!r}")
    default = re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")[:_NAME_LENGTH]
    return Engine(name or default, address)


def connect(engine: Engine) -> DockerClient:
    """Connect to an engine and check that it responds.

    `ssh://` uses the program `ssh` with the user's configuration, as the command `docker` does.

    Raises:
        MachineError: there is no such context, or the engine does not respond in time.
    """

    def opened() -> DockerClient:
        host, tls = _endpoint(engine.address)
        return _responding(DockerClient(base_url=host, tls=tls, use_ssh_client=True, timeout=CONNECT_SECONDS))

    with engine_errors(f"the engine {engine.address} is unreachable"):
        return within(2 * CONNECT_SECONDS, opened)


def _endpoint(address: str) -> tuple[str, TLSConfig | bool]:
    """The URL of an engine and the TLS settings of its context."""
    if "://" in address:
        return address, False
    context = ContextAPI.get_context(address)
    if context is None or not context.Host:
        text = f"expected the name of a Docker context, got {address!r}: see docker context ls"
        missing = " and create config.json in Docker's configuration directory if it is missing"
        raise MachineError(text if find_config_file() else text + missing)  # the SDK finds contexts beside it
    return context.Host, context.TLSConfig or False


def connect_here() -> DockerClient:
    """Connect to the engine of this machine, which has the images and the keys.

    Raises:
        MachineError: it does not respond.
    """
    with engine_errors("the engine of this machine is unreachable"):
        return _responding(docker.from_env(timeout=CONNECT_SECONDS))


def _responding(client: DockerClient) -> DockerClient:
    client.version()
    client.api.timeout = _REQUEST_SECONDS
    return client


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of `work`, or raise its exception.

    A connection through `ssh` has no time limit of its own, so a thread makes it. A thread that is late
    does not prevent the end of the process.

    Raises:
        TimeoutError: `work` takes longer than `seconds`.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no response within {seconds:.0f} s")
    return results[0]


@contextlib.contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Raise errors of an engine or of its connection as a `MachineError` that begins with `what`."""
    try:
        yield
    except APIError as error:
        raise MachineError(f"{what}: {_short(str(error.explanation or error))}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise MachineError(f"{what}: {reason(error)}", EXIT_TEMPORARY) from error


def reason(error: BaseException) -> str:
    """The cause of a failed connection, in a few words."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for one in reversed(chain):
        if isinstance(one, requests.Timeout):
            return f"no response within {CONNECT_SECONDS} s"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return _short(str(chain[-1]))


def _short(text: str) -> str:
    return " ".join(text.split())[:_REASON_LENGTH]
