"""The server: everything between the sockets and the trainer, and the only way between their threads.

The network thread owns sockets, sessions and ledger. The decoder thread decodes chunks. The methods here run
in the thread of their caller, and call into the network thread for what it owns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

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
    """Serves actors from `start` to `close`. Implements `learner.interface.TrainerServer`.

    Args:
        config: the configuration of the run.
        spaces: those of its environment.
        generation: number of earlier learner processes of the run.
        target: the serialised target network; None without a bonus.
        keys: the learner's key directory; None accepts every peer.
        sessions_per_key: the most sessions that one key may have at a time.
    """

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
        admission = Admission(config, generation, digest, sessions_per_key)
        self._registry = admission.registry
        self._publisher = Publisher(target)
        message_bytes = codec.message_limit_bytes(config.rollout, spaces)
        self._decoder = ChunkDecoder(config.rollout, spaces, self._refuse)
        self._network = Network(admission, self._publisher, self._decoder, message_bytes, keys)
        self.local_sessions: frozenset[bytes] = frozenset()  # assigned by the supervisor

    @property
    def endpoints(self) -> list[str]:
        """The bound endpoints: data and weights port of each address."""
        return self._network.endpoints

    @property
    def status(self) -> ServerStatus:
        """The newest status, about 0.5 s old."""
        return self._network.status

    def restore(self, text: str) -> None:
        """Continue from the JSON of `accounting` of an earlier generation; its local sessions end as lost."""
        self._registry.restore(text, time.monotonic())

    def start(self, endpoints: list[tuple[str, str]]) -> None:
        """Bind every (data, weights) pair, publish the first status and serve.

        Raises:
            BindError: an address cannot be served.
            AccessControlError: a port with keys accepts a client without an authorised key.
            KeysError: no key is authorised.
            TimeoutError: the ports are not ready after 30 s.
        """
        self._network.start(endpoints)
        self._decoder.start()

    def close(self) -> None:
        """Stop serving."""
        self._decoder.close()  # first, because it calls into the network thread
        self._network.close()

    # Called by the trainer.

    def open_batch(self, version: int) -> None:
        """Hand out credit for the batch of `version` and `max_lag` more; -1 is the warm-up."""
        self._network.call(lambda: self._registry.open(version, time.monotonic()))

    def retry_batch(self, chunks: int) -> None:
        """Hand out credit for `chunks` more chunks of the present batch, because its update failed."""
        self._network.call(lambda: self._registry.reopen(chunks, time.monotonic()))

    def take(self, timeout_seconds: float) -> DecodedChunk | None:
        """Return the next decoded chunk, oldest batch first, or None after the timeout."""
        if self._network.failure is not None:
            raise self._network.failure
        return self._decoder.take(timeout_seconds)

    def settle(self, chunks: Sequence[DecodedChunk], verdict: Verdict) -> None:
        """Record the steps of `chunks` in the ledger as trained, or as dropped for a reason."""
        offsets = [(chunk.sid, chunk.offset) for chunk in chunks]
        self._network.call(lambda: self._registry.settle(offsets, verdict))

    def record_violations(self, chunks: Sequence[DecodedChunk], violation: str) -> None:
        """Record a violation for the session of each chunk; too many ban its connection."""
        sids = [chunk.sid for chunk in chunks]
        self._network.call(lambda: self._network.record_violations(sids, violation))

    def publish(self, bundle: Bundle) -> None:
        """Serialise a bundle and make it the newest that actors can fetch."""
        blob = WeightsBlob.of("bundle", bundle)
        self._network.call(lambda: self._publisher.publish(blob))

    def accounting(self) -> str:
        """Return ledger and sessions as JSON for a checkpoint."""
        local = set(self.local_sessions)
        return self._network.call(lambda: self._registry.to_json(local))

    # Called by the main thread, the supervisor and the watchdog.

    def local_actor_exited(self, sid: bytes, produced: int) -> None:
        """End the session of a local actor whose process ended after `produced` steps."""
        self._network.call(lambda: self._registry.local_actor_exited(sid, produced))

    def session_count(self) -> int:
        """Count the sessions that connected to this process; restored ones count once they return."""
        return self._network.call(lambda: len(self._registry.sessions.connected()))

    def drain(self, finished: bool) -> None:
        """Ask every session to leave; hand out no more credit."""
        self._network.call(lambda: self._network.enqueue(self._registry.drain(finished)))

    def close_remaining(self) -> None:
        """End every session that has not left, and settle its steps."""
        self._network.call(self._registry.close_remaining)

    def refresh_status(self) -> ServerStatus:
        """Replace `status` by one of this moment and return it."""
        return self._network.call(self._network.refresh_status)

    def loop_times(self) -> dict[str, float]:
        """Return the time.monotonic() of each thread's last loop; valid after `close` as well."""
        return {"network": self._network.last_loop_at, "decoder": self._decoder.last_loop_at}

    def _refuse(self, chunk: AdmittedChunk, text: str) -> None:
        """Drop a chunk that the decoder could not read. Runs in the decoder thread."""
        log.warning("chunk_invalid", text=text)
        sid, offset = chunk.message.sid, chunk.message.offset
        self._network.call(lambda: self._registry.reject_chunk(sid, offset, chunk.batch, time.monotonic()))
