"""The link between an actor and its parent, in a process with many open descriptors."""

from __future__ import annotations

import socket
from pathlib import Path
from threading import Event
from typing import Any, cast

import pytest

from actor.fleet import Fleet
from actor.metrics import FleetCollector
from actor.weights import WeightsSource
from common.process.children import Child, ChildProcesses
from common.process.parent_link import ParentLink
from tests.support.processes import SELECT_DESCRIPTORS


@pytest.mark.usefixtures("many_descriptors")
def test_notes_pass_over_descriptors_that_select_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = Child(5, [], socket=ours)
    collector, updates = FleetCollector(), list[tuple[int, dict[str, float]]]()
    monkeypatch.setattr(collector, "update", lambda number, stats: updates.append((number, stats)))
    children = cast(ChildProcesses, type("Owner", (), {"children": [child]})())
    fleet = Fleet(children, cast(WeightsSource, None), tmp_path, collector)
    parent = ParentLink(theirs.detach())
    descriptor = parent.fileno()
    assert descriptor is not None and min(descriptor, ours.fileno()) >= SELECT_DESCRIPTORS
    parent.send({"stats": {"steps": 7.0}})
    fleet.serve_notes(Event())
    assert updates == [(5, {"steps": 7.0})]
    answer: dict[str, Any] = {"have": "bundle", "path": None}
    ours.send(b'{"have": "bundle", "path": null}')
    assert parent.receive(60.0) == answer
    assert parent.receive(0.0) is None
    parent.close()
    ours.close()
