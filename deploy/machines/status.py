"""The table of `status`: what every engine says about its actors, and the rates that Prometheus has."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from docker import DockerClient
from docker.models.containers import Container

from deploy.machines.engines import CONNECT_SECONDS, Engine, connect, engine_errors, within
from deploy.machines.errors import MachineError
from deploy.machines.machine import COMMIT, MACHINE, PROCS, actor_containers

_HTTP_SECONDS = 5.0
_ENGINE_SECONDS = 30.0  # for all requests to one engine
_MIB = 2**20
_RATES = "rate(outrider_fleet_slot_steps_total[1m])"
_HEADINGS = ("MACHINE", "COMMIT", "STATE", "PROCS", "RESTARTS", "OOM", "CPU", "MEMORY", "STEPS/S")
_UNKNOWN = "-"


class ContainerStatus(NamedTuple):
    """What an engine says about one container of actors."""

    machine: str
    commit: str
    state: str  # that of the health check, if the container runs
    procs: str
    restarts: int
    out_of_memory: bool  # whether the kernel killed one of its processes
    cpu_percent: float | None
    memory_bytes: int | None


def container_status(attributes: Mapping[str, Any], stats: Mapping[str, Any]) -> ContainerStatus:
    """The status of a container, from the outputs of its inspection and of its statistics."""
    labels, state = attributes["Config"]["Labels"], attributes["State"]
    health = state.get("Health", {}).get("Status")
    return ContainerStatus(
        labels.get(MACHINE, _UNKNOWN),
        labels.get(COMMIT, _UNKNOWN),
        health if state["Status"] == "running" and health else _ended(state),
        labels.get(PROCS, _UNKNOWN),
        attributes["RestartCount"],
        state["OOMKilled"],
        cpu_percent(stats),
        memory_bytes(stats),
    )


def _ended(state: Mapping[str, Any]) -> str:
    return f"exited ({state['ExitCode']})" if state["Status"] == "exited" else str(state["Status"])


def cpu_percent(stats: Mapping[str, Any]) -> float | None:
    """The use of CPU between the two samples of the statistics, 100 for one core; None without samples."""
    before, now = stats.get("precpu_stats", {}), stats.get("cpu_stats", {})
    if "system_cpu_usage" not in before or "system_cpu_usage" not in now:
        return None
    system = now["system_cpu_usage"] - before["system_cpu_usage"]
    own = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    return 100.0 * now["online_cpus"] * own / system if system > 0 else None


def memory_bytes(stats: Mapping[str, Any]) -> int | None:
    """The memory without reclaimable page cache, as `docker stats` shows it; None without statistics."""
    memory = stats.get("memory_stats", {})
    if "usage" not in memory:
        return None
    details = memory.get("stats", {})
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))  # of cgroup 1 and 2
    return int(memory["usage"]) - int(cache)


def engine_status(engine: Engine) -> list[ContainerStatus]:
    """The status of every container of actors of an engine.

    Raises:
        MachineError: the engine does not respond.
    """

    def read() -> list[ContainerStatus]:
        client: DockerClient = connect(engine)
        client.api.timeout = CONNECT_SECONDS
        return [container_status(one.attrs, _stats(one)) for one in actor_containers(client)]

    with engine_errors(f"the engine {engine.address} does not respond"):
        return within(_ENGINE_SECONDS, read)


def _stats(container: Container) -> dict[str, Any]:
    """Two samples of a running container, one second apart."""
    samples: Any = container.stats(stream=False)
    return dict(samples)


def every_status(engines: Sequence[Engine]) -> list[list[ContainerStatus] | MachineError]:
    """The status of every engine at the same time. An engine that does not respond has an error."""

    def one(engine: Engine) -> list[ContainerStatus] | MachineError:
        try:
            return engine_status(engine)
        except MachineError as error:
            return error

    with ThreadPoolExecutor(len(engines)) as pool:
        return list(pool.map(one, engines))


def steps_per_second(rates: Mapping[str, Any], page: Mapping[str, Any]) -> dict[str, float]:
    """The rate of steps of each host.

    Args:
        rates: the answer of Prometheus for the rates of all slots.
        page: the status of the learner's page, which names the host of each slot.
    """
    by_slot = {one["metric"]["slot"]: float(one["value"][1]) for one in rates["data"]["result"]}
    hosts: dict[str, float] = {}
    for session in page["fleet"]:
        rate = by_slot.get(str(session["slot"]))
        if rate is not None:
            hosts[session["host"]] = hosts.get(session["host"], 0.0) + rate
    return hosts


def read_rates(page: str, prometheus: str) -> dict[str, float]:
    """The rate of steps of each host; empty unless both the page and Prometheus respond."""
    query = urllib.parse.urlencode({"query": _RATES})
    try:
        return steps_per_second(_read(f"{prometheus}/api/v1/query?{query}"), _read(f"{page}/status.json"))
    except (OSError, ValueError, KeyError):
        return {}


def _read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=_HTTP_SECONDS) as answer:  # noqa: S310  # an address that the user gave
        values: dict[str, Any] = json.load(answer)
        return values


def table(
    engines: Sequence[Engine],
    statuses: Sequence[list[ContainerStatus] | MachineError],
    rates: Mapping[str, float],
) -> str:
    """The status of every engine as a table, one line for each container."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for engine, status in zip(engines, statuses, strict=True):
        if isinstance(status, MachineError):
            rows.append((engine.name, _UNKNOWN, "unreachable", *[_UNKNOWN] * 6))
        elif not status:
            rows.append((engine.name, _UNKNOWN, "no actors", *[_UNKNOWN] * 6))
        else:
            rows += [_row(one, rates) for one in status]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(one: ContainerStatus, rates: Mapping[str, float]) -> tuple[str, ...]:
    return (
        one.machine,
        one.commit,
        one.state,
        one.procs,
        str(one.restarts),
        "yes" if one.out_of_memory else "no",
        _UNKNOWN if one.cpu_percent is None else f"{one.cpu_percent:.0f} %",
        _UNKNOWN if one.memory_bytes is None else f"{one.memory_bytes / _MIB:.0f} MiB",
        f"{rates[one.machine]:,.0f}" if one.machine in rates else _UNKNOWN,
    )
