"""The server: everything between the sockets and the trainer. Every hop between threads is in this file.

The network thread owns sockets, sessions and ledger; the decode thread unpacks chunks. The methods here
run in the caller's thread and call into the network thread where they need what it owns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import structlog

from common.config import Config
from common.keys.files import KeyDirectory
from common.model.bundle import Bundle
from common.protocol import codec
from common.spaces import Spaces
from learner.interface import DecodedChunk, Verdict
from learner.server.admission import Admission
from learner.server.decoder import ChunkDecoder
from learner.server.network import Network
from learner.server.publisher import Publisher, WeightsBlob
from learner.server.rate_limit import SESSIONS_PER_KEY
from learner.server.scheduler import AdmittedChunk
from learner.server.status import ServerStatus

log = structlog.get_logger()


class Server:
    """Serves actors from `start` to `close`. Implements `learner.interface.TrainerServer`."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        generation: int,
        target: WeightsBlob | None,
        keys: KeyDirectory | None,
        sessions_per_key: int = SESSIONS_PER_KEY,
    ) -> None:
        digest = target.meta.digest if target is not None else bytes(32)
        self._admission = Admission(config, generation, digest, sessions_per_key)
        self._publisher = Publisher(target)
        message_bytes = codec.message_limit_bytes(config.rollout, spaces)
        self._network = Network(self._admission, self._publisher, message_bytes, keys)
        self._decoder = ChunkDecoder(config.rollout, spaces, self._refuse)
        self.local_sessions: frozenset[bytes] = frozenset()  # assigned by the supervisor

    @property
    def endpoints(self) -> list[str]:
        """The bound endpoints: data and weights port of each address."""
        return self._network.endpoints

    @property
    def status(self) -> ServerStatus:
        """The newest status, about 0.5 s old."""
        return self._with_decoder(self._network.view)

    def restore(self, text: str) -> None:
        """Continue from `accounting` of an earlier generation; its local sessions end as lost."""
        self._admission.restore(text, time.monotonic())

    def start(self, endpoints: list[tuple[str, str]]) -> None:
        """Bind every (data, weights) pair, publish the first status and serve.

        Raises:
            BindError: an address cannot be served.
            AccessControlError: a port with keys does not refuse strangers.
            KeysError: no key is authorised.
        """
        self._network.start(endpoints, self._decoder.submit)
        self._decoder.start()

    def close(self) -> None:
        """Stop serving. The decoder ends first, because it calls into the network thread."""
        self._decoder.close()
        self._network.close()

    # Called by the trainer.

    def open_batch(self, version: int) -> None:
        """Hand out credit for the batch of `version` and `max_lag` more; -1 is the warm-up."""
        self._network.ask(lambda: self._admission.open(version, time.monotonic()))

    def retry_batch(self) -> None:
        """Hand out credit for the present batch again, because its update failed."""
        self._network.ask(lambda: self._admission.reopen(time.monotonic()))

    def take(self, timeout_seconds: float) -> DecodedChunk | None:
        """Return the next decoded chunk, oldest batch first, or None after the timeout."""
        if self._network.failure is not None:
            raise self._network.failure
        return self._decoder.take(timeout_seconds)

    def settle(self, chunks: Sequence[DecodedChunk], verdict: Verdict) -> None:
        """Record the steps of `chunks` in the ledger as trained, or as dropped for a reason."""
        names = [(chunk.sid, chunk.offset) for chunk in chunks]
        self._network.ask(lambda: self._admission.settle(names, verdict))

    def publish(self, bundle: Bundle) -> None:
        """Serialise a bundle and make it the newest that actors can fetch."""
        blob = WeightsBlob.of("bundle", bundle)
        self._network.ask(lambda: self._publisher.publish(blob))

    def accounting(self) -> str:
        """Return ledger and sessions as JSON for a checkpoint."""
        local = set(self.local_sessions)
        return self._network.ask(lambda: self._admission.to_json(local))

    # Called by the main thread, the supervisor and the watchdog.

    def local_actor_exited(self, sid: bytes, produced: int) -> None:
        """End the session of a local actor whose process ended after `produced` steps."""
        self._network.ask(lambda: self._admission.lost(sid, produced))

    def session_count(self) -> int:
        """Count the sessions that connected to this process; restored ones count once they return."""
        return self._network.ask(lambda: sum(seat.peer is not None for seat in self._admission.seats))

    def drain(self, finished: bool) -> None:
        """Ask every session to leave; hand out no more credit."""
        self._network.ask(lambda: self._admission.drain(finished))

    def close_remaining(self) -> None:
        """End every session that has not left, and settle its steps."""
        self._network.ask(self._admission.close_remaining)

    def refresh_status(self) -> ServerStatus:
        """Return a status of this moment."""
        return self._with_decoder(self._network.ask(self._network.look))

    def loop_times(self) -> dict[str, float]:
        """Return the time.monotonic() of each thread's last loop; valid after `close` as well."""
        return {"network": self._network.last_loop_at, "decode": self._decoder.last_loop_at}

    def _with_decoder(self, status: ServerStatus) -> ServerStatus:
        decoder = self._decoder
        return replace(status, decoder_chunks=decoder.waiting_chunks, decoder_seconds=decoder.decode_seconds)

    def _refuse(self, chunk: AdmittedChunk, text: str) -> None:
        """Drop a chunk that the decoder could not read. Runs in the decode thread."""
        log.warning("chunk_invalid", text=text)
        sid, offset = chunk.message.sid, chunk.message.offset
        self._network.ask(lambda: self._admission.refuse(sid, offset, chunk.batch, time.monotonic()))
