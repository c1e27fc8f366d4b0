"""A learner's server in this process, without a trainer, and a peer for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from common.keys import files
from common.keys.curve import ActorKeys
from common.keys.files import KeyDirectory, read_key_file
from common.model.bundle import Bundle
from common.protocol import messages
from common.protocol.sockets import Context, weights_endpoint
from common.spaces import Spaces
from learner.presets import PRESETS
from learner.server.publisher import WeightsBlob
from learner.server.server import Server
from tests.support.processes import PATIENCE_SECONDS, free_port, holds_within
from tests.support.protocol_peer import SessionPeer


class Served:
    """A server with two loopback ports and two local sockets; TCP peers need keys if `keyed`."""

    def __init__(self, directory: Path, keyed: bool = True) -> None:
        self.path = directory / "keys"
        files.initialise(self.path)
        target = WeightsBlob.of("target", Bundle(3, 0, {"weight": torch.zeros(400_000)}))
        opened = KeyDirectory.open(self.path) if keyed else None
        self.server = Server(PRESETS["cartpole"], Spaces((4,), 1, 2), 3, target, opened)
        self.endpoint, self.local = f"tcp://127.0.0.1:{free_port()}", f"ipc://{directory}/data"
        self.running = False

    def start(self) -> None:
        """Open the sockets and start the thread."""
        pairs = [(endpoint, weights_endpoint(endpoint)) for endpoint in (self.endpoint, self.local)]
        self.server.start(pairs)
        self.running = True

    def close(self) -> None:
        """Stop the thread and close the sockets."""
        if self.running:
            self.server.close()

    def keys_of(self, name: str) -> ActorKeys:
        """Authorise an actor; return its keys."""
        files.add(self.path, name)
        files.export(self.path, name, self.path / "bundle.json")
        return read_key_file(self.path / "bundle.json")


class Peer(SessionPeer):
    """A session without an environment: it announces steps in heartbeats and sends no chunks."""

    def __init__(self, context: Context, endpoint: str, keys: ActorKeys | None = None) -> None:
        super().__init__(context, endpoint, keys, watched=True)
        self.connect()

    def step(self, steps: int) -> None:
        """Announce further steps."""
        self.produced += steps
        self.send(
            messages.Heartbeat(sid=self.sid, generation=self.generation, produced=self.produced, stats={})
        )

    def refusal(self, seconds: float = PATIENCE_SECONDS) -> str | None:
        """The reason why the learner refuses this peer; None if there is no refusal in the time."""
        sentences: list[str] = []

        def check() -> bool:
            sentence = self.socket.refusal()
            sentences.extend([] if sentence is None else [sentence])
            return bool(sentences)

        return sentences[0] if holds_within(check, seconds, lambda: self.receive(0.05)) else None


MakePeer = Callable[..., Peer]  # with an endpoint, and keys or none
