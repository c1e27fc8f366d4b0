"""A learner's network without its training: real sockets, real books, in this process."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from types import UnionType

import torch

from common.keys import files
from common.keys.curve import ActorKeys
from common.keys.files import KeyDirectory, read_key_file
from common.model.bundle import Bundle
from common.protocol import codec, messages
from common.protocol.sockets import Context, DealerSocket, weights_endpoint
from learner.presets import PRESETS
from learner.server.admission import Admission
from learner.server.network import Network
from learner.server.publisher import Publisher, WeightsBlob
from tests.support.processes import PATIENCE_SECONDS, free_port
from tests.support.wire_fuzz import hello

MESSAGE_BYTES = 1 << 20


class Served:
    """Two ports on the loopback address and two in a directory; with keys if there is a key directory."""

    def __init__(self, directory: Path, keyed: bool = True) -> None:
        self.path = directory / "keys"
        files.initialise(self.path)
        self.admission = Admission(PRESETS["cartpole"], 3, bytes(32))
        target = WeightsBlob.of("target", Bundle(3, 0, {"weight": torch.zeros(400_000)}))
        opened = KeyDirectory.open(self.path) if keyed else None
        self.network = Network(self.admission, Publisher(target), MESSAGE_BYTES, opened)
        self.endpoint, self.local = f"tcp://127.0.0.1:{free_port()}", f"ipc://{directory}/data"
        self.running = False

    def start(self) -> None:
        """Serve."""
        pairs = [(endpoint, weights_endpoint(endpoint)) for endpoint in (self.endpoint, self.local)]
        self.network.start(pairs, lambda arrival: None)
        self.running = True

    def close(self) -> None:
        """Stop."""
        if self.running:
            self.network.close()

    def keys_of(self, name: str) -> ActorKeys:
        """An authorised actor's bundle."""
        files.add(self.path, name)
        files.export(self.path, name, self.path / "bundle.json")
        return read_key_file(self.path / "bundle.json")


class Peer:
    """A session without an environment, as far as the learner can tell an actor."""

    def __init__(self, context: Context, endpoint: str, bundle: ActorKeys | None = None) -> None:
        self.client = DealerSocket(context, endpoint, MESSAGE_BYTES, bundle, watched=True)
        self.sid = secrets.token_bytes(16)
        self.produced = 0

    def say(self, message: messages.Message) -> None:
        """Send, once there is a connection."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.client.send(codec.encode(message)):
            assert time.monotonic() < deadline, "expected a connection"
            time.sleep(0.01)

    def classify_message(
        self, kind: type[messages.Message] | UnionType, seconds: float = PATIENCE_SECONDS
    ) -> messages.Message | None:
        """The next message of a kind."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            parts = self.client.receive(0.05)
            message = codec.decode(parts) if parts is not None else None
            if isinstance(message, kind):
                return message
        return None

    def join(self) -> None:
        """Repeat the Hello until the learner answers it: a Hello may be lost with its connection."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self.say(hello(self.sid, produced=self.produced))
            if self.classify_message(messages.Welcome, 2.0) is not None:
                return
        raise AssertionError(f"expected a Welcome within {PATIENCE_SECONDS:.0f} s")

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def step(self, steps: int) -> None:
        """Announce steps."""
        self.produced += steps
        self.say(messages.Heartbeat(sid=self.sid, generation=3, produced=self.produced, stats={}))

    def refusal(self, seconds: float = PATIENCE_SECONDS) -> str | None:
        """Why it is not let in, if that comes out in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            sentence = self.client.refusal()
            if sentence is not None:
                return sentence
            self.client.receive(0.05)
        return None
