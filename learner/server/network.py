"""The network thread: the only one that uses sockets, sessions and the ledger.

Each loop reads the waiting messages, runs the calls of other threads, closes expired sessions and sends the
replies, in this order, so that no session expires while one of its messages waits to be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import structlog

from common.keys.files import KeyDirectory
from common.process.lifecycle import EXIT_INTERNAL, Fatal
from common.protocol import codec
from common.protocol.messages import WeightsRequest
from common.protocol.sockets import wait
from learner.server.admission import Admission
from learner.server.calls import CallQueue
from learner.server.decoder import ChunkDecoder
from learner.server.message_handler import MessageHandler
from learner.server.ports import Ports
from learner.server.publisher import PIECE_BYTES, Publisher
from learner.server.registry import Replies
from learner.server.scheduler import AdmittedChunk
from learner.server.status import ServerStatus

log = structlog.get_logger()

T = TypeVar("T")
_STATUS_SECONDS = 0.5
_LOOP_SECONDS = 0.25  # the longest wait for a message
_START_SECONDS = 30.0  # to bind the ports and verify their access control
_PAUSE_AFTER_BYTES = 2**19  # of ignored messages, after which a loop reads no more
_PAUSE_SECONDS = 0.005  # after such a loop, so that a flood takes little time and delays other peers little
_STATUS_SLOTS = 256  # whose sessions a status lists


class Network:
    """Runs `Admission` and `Publisher` on sockets; `call` runs a function in its thread."""

    def __init__(
        self,
        admission: Admission,
        publisher: Publisher,
        decoder: ChunkDecoder,
        message_bytes: int,
        keys: KeyDirectory | None = None,
    ) -> None:
        self._admission, self._publisher, self._decoder = admission, publisher, decoder
        self._message_bytes, self._keys = message_bytes, keys
        self._closing = threading.Event()
        self._outbox: Replies = []  # what to send at the end of a loop
        self._admitted: list[AdmittedChunk] = []  # what to decode at the end of a loop
        self._message_handler = MessageHandler(admission, self.enqueue, self._admitted.append)
        self.status = ServerStatus()
        self.last_loop_at = time.monotonic()  # for the watchdog
        self.failure: Fatal | None = None  # what ended the thread while it served

    @property
    def endpoints(self) -> list[str]:
        """The bound endpoints: data and weights port of each address."""
        return self._ports.endpoints

    def start(self, endpoints: Sequence[tuple[str, str]]) -> None:
        """Bind every (data, weights) pair, publish the first status and serve. See `Server.start`."""
        started: Future[None] = Future()
        self._calls = CallQueue()
        self._thread = threading.Thread(target=self._run, args=(endpoints, started), name="network")
        self._thread.start()
        try:
            started.result(_START_SECONDS)
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the network thread and return its result, as `CallQueue.call` does."""
        return self._calls.call(function)

    def enqueue(self, replies: Replies) -> None:
        """Send replies at the end of this loop. Only the network thread calls it."""
        self._outbox += replies

    def record_violations(self, sids: Sequence[bytes], violation: str) -> None:
        """Log and count a violation of each session. Only the network thread calls it.

        A session that has ended, or has not returned after a restart, has no connection to count it for.
        """
        for sid in sids:
            session = self._admission.registry.sessions.get(sid)
            if session is None or session.peer is None:
                log.warning("session_to_blame", sid=sid.hex(), text=violation)
                continue
            sender = self._ports.sender(session.peer, session.key)
            log.warning(
                "session_to_blame",
                sid=sid.hex(),
                slot=session.slot,
                host=session.host,
                key=sender.name,
                text=violation,
            )
            self._message_handler.record_violation(sender, "violation", violation, time.monotonic())
            self._admission.registry.scheduler.keys.add_failure(session.key, time.monotonic())

    def close(self) -> None:
        """End the thread; later calls raise."""
        self._closing.set()
        self._calls.waker.wake()
        self._thread.join()
        self._calls.waker.close()

    def _run(self, endpoints: Sequence[tuple[str, str]], started: Future[None]) -> None:
        try:
            with Ports(endpoints, self._message_bytes, self._keys) as self._ports:
                self.refresh_status()
                started.set_result(None)
                while not self._closing.is_set():
                    self._ports.wait(self._calls.waker, _LOOP_SECONDS)
                    self.poll_once()
            self._calls.end(RuntimeError("the server is closed: make no call after close"))
        except BaseException as error:  # noqa: BLE001  # `start` raises it, or the next `call`
            self._fail(error, started)

    def poll_once(self) -> None:
        """Run one loop."""
        now = self.last_loop_at = time.monotonic()
        authenticator = self._ports.authenticator
        if authenticator is not None and authenticator.tick(now):
            self._admission.registry.revoke(authenticator.authorised)
        self._ports.drop_floods(now)
        ignored_bytes = self._read_data(now)
        ignored_bytes += self._read_weights(now, 2 * _PAUSE_AFTER_BYTES - ignored_bytes)
        self._calls.run_pending()
        if not self._ports.data.discarding:  # else heartbeats may wait unread; the next tick extends leases
            self._admission.registry.tick(time.monotonic())
        self.enqueue(self._admission.registry.acknowledge())
        for key in self._admission.registry.take_restricted():
            text = "its sessions delay the others: until they answer in time, its grants reserve no place"
            log.warning("key_restricted", key=self._ports.sender(b"", key).name, text=text)
        for peer, message in self._outbox:
            self._ports.data.send(peer, codec.encode(message))
        self._outbox.clear()
        # Only now, because a decoder that works competes with this thread for the interpreter lock.
        for chunk in self._admitted:
            self._decoder.submit(chunk)
        self._admitted.clear()
        if ignored_bytes >= _PAUSE_AFTER_BYTES:
            wait((), self._calls.waker, _PAUSE_SECONDS)
        if time.monotonic() - self.status.read_at > _STATUS_SECONDS:
            self.refresh_status()

    def _read_data(self, now: float) -> int:
        """Handle the messages of the data port; return the bytes that ignored ones count as."""
        ignored_bytes = 0
        for peer, key, parts, *excess in self._ports.data.receive():
            sender = self._ports.sender(peer, key)
            ignored_bytes += self._message_handler.handle(sender, parts, now, *excess)
            if ignored_bytes >= _PAUSE_AFTER_BYTES:
                break
        return ignored_bytes

    def _read_weights(self, now: float, limit_bytes: int) -> int:
        """Answer one request of the weights port; return the bytes that ignored ones count as.

        One answer has at most 4 MiB, so that chunks do not wait while a whole fleet fetches weights.
        """
        ignored_bytes = 0
        for peer, key, parts, *excess in self._ports.weights.receive():
            sender = self._ports.sender(peer, key)
            request = self._message_handler.handle_request(sender, parts, now, *excess)
            if not isinstance(request, int):
                self._answer_request(peer, request, now)
                break
            ignored_bytes += request
            if not request or ignored_bytes >= limit_bytes:
                break
        return ignored_bytes

    def _answer_request(self, peer: bytes, request: WeightsRequest, now: float) -> None:
        for answer in self._publisher.answer(request):
            allowed = self._message_handler.rate_limiter.allow_send(peer, PIECE_BYTES, now)
            if not allowed or not self._ports.weights.send(peer, codec.encode(answer)):
                return  # its quota or its queue is full; the actor asks again

    def refresh_status(self) -> ServerStatus:
        """Replace the status by the present one. Only the network thread calls it."""
        self.status = self._read_status()
        return self.status

    def _read_status(self) -> ServerStatus:
        registry, messages, decoder = self._admission.registry, self._message_handler, self._decoder
        now = time.monotonic()
        lease_ages = registry.lease_ages(now)
        return ServerStatus(
            read_at=now,
            totals=registry.ledger.totals(),
            sessions_seen=registry.ledger.sessions_seen,
            actors=len(lease_ages),
            heartbeat_age_max_seconds=max(lease_ages.values(), default=0.0),
            collecting=sum(registry.scheduler.is_collecting(sid) for sid in lease_ages),
            fleet=registry.session_statuses(now, _STATUS_SLOTS, self._ports.key_names),
            chunk_durations=registry.scheduler.keys.chunk_durations,
            first_credit_at=registry.first_credit_at,
            decoder_chunks=decoder.waiting_chunks,
            decoder_seconds=decoder.decode_seconds,
            actor_phases=dict(registry.sessions.phase_seconds),
            messages=dict(messages.messages),
            events=dict(registry.events),
            wire_errors=dict(messages.wire_errors),
            duplicates=self._admission.duplicates,
            received_bytes=messages.received_bytes,
            chunk_bytes=messages.chunk_bytes,
            chunk_steps=messages.chunk_steps,
            weights_bytes=self._publisher.sent_bytes,
            weights_pulls=self._publisher.pulls,
            send_queue_full=self._ports.send_queue_full,
            auth_refused=self._ports.refused,
            violations=dict(messages.violations),
            bans=messages.rate_limiter.bans,
            ignored_messages=messages.rate_limiter.ignored_messages,
        )

    def _fail(self, error: BaseException, started: Future[None]) -> None:
        if not started.done():
            started.set_exception(error)
            return
        log.error("network_thread_failed", exc_info=error)
        self.failure = Fatal(
            EXIT_INTERNAL,
            f"the network thread failed with {error!r}: start the run again with --resume",
        )
        self._calls.end(self.failure)
