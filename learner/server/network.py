"""The network thread: the only one that touches sockets, seats and the ledger.

Order within a turn: read everything that waits, do what other threads asked for, let time pass,
send the replies. So nobody is given up while a message of theirs lies unread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog

from common.keys.files import KeyDirectory
from common.process.lifecycle import EXIT_INTERNAL, Fatal
from common.protocol import codec
from common.protocol.sockets import Context, RouterSocket, wait
from learner.server.admission import Admission
from learner.server.authenticator import SessionAuthenticator
from learner.server.calls import CallQueue
from learner.server.leases import LEASE_SECONDS
from learner.server.message_handler import Intake
from learner.server.publisher import PIECE_BYTES, Publisher
from learner.server.rate_limit import Sender
from learner.server.scheduler import AdmittedChunk
from learner.server.status import ServerStatus

log = structlog.get_logger()

T = TypeVar("T")
_VIEW_SECONDS = 0.5
_TURN_SECONDS = 0.25
_START_SECONDS = 30.0
_WEIGHTS_REQUEST_BYTES = 8_192
_REST_AFTER_BYTES = 2**19  # of ignored messages that end the reading of a turn
_REST_SECONDS = 0.005  # the pause that follows: a flood costs little, and delays others by little
_SHOWN_SLOTS = 256  # of which exporter and page show each


class Network:
    """Runs `Admission` and `Publisher` on sockets; `ask` runs a function in its thread."""

    def __init__(
        self,
        admission: Admission,
        publisher: Publisher,
        message_bytes: int,
        keys: KeyDirectory | None = None,
    ) -> None:
        self._admission, self._publisher, self._keys = admission, publisher, keys
        self._door: SessionAuthenticator | None = None  # with keys only
        self._message_bytes = message_bytes
        self._calls = CallQueue()
        self._closing = threading.Event()
        self.intake = Intake(admission)
        self.view = ServerStatus()
        self.last_loop_at = time.monotonic()  # for the watchdog
        self._viewed = 0.0
        self._auth_refused: dict[str, int] = {}
        self.endpoints: list[str] = []
        self.failure: Fatal | None = None  # what ended the thread while it served
        self._deliver: Callable[[AdmittedChunk], None] = lambda arrival: None

    def start(self, endpoints: list[tuple[str, str]], deliver: Callable[[AdmittedChunk], None]) -> None:
        """Bind every (data, weights) pair and serve.

        Raises:
            BindError: an address cannot be served.
            AccessControlError: a port with keys does not refuse strangers.
        """
        self._deliver = deliver
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(endpoints, started), name="network")
        self._thread.start()
        try:
            started.result(_START_SECONDS)
        except BaseException:
            self._thread.join()
            self._calls.waker.close()
            raise

    def ask(self, function: Callable[[], T]) -> T:
        """Run `function` in the network thread and return its result; any thread may call."""
        return self._calls.call(function)

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        self._calls.waker.wake()
        self._thread.join()
        self._calls.waker.close()

    def _run(self, endpoints: list[tuple[str, str]], started: Future[None]) -> None:
        try:
            with Context() as context, contextlib.ExitStack() as stack:
                gates = []
                if self._keys is not None:
                    self._door = SessionAuthenticator(context, self._keys)
                    gates.append(self._door.gate)
                    stack.callback(self._door.gate.close)
                data = RouterSocket(context, self._message_bytes, *gates)
                stack.callback(data.close)
                weights = RouterSocket(context, _WEIGHTS_REQUEST_BYTES, *gates)
                stack.callback(weights.close)
                for data_endpoint, weights_endpoint in endpoints:
                    self.endpoints.append(data.bind(data_endpoint))
                    self.endpoints.append(weights.bind(weights_endpoint))
                if self._door is not None:
                    self._door.verify_access_control(self.endpoints)
                self.view = self.look()
                started.set_result(None)
                while not self._closing.is_set():
                    wait((data, weights, *gates), self._calls.waker, _TURN_SECONDS)
                    self._turn(data, weights)
            self._calls.end(RuntimeError("expected a call before close, got one after it"))
        except BaseException as error:  # noqa: BLE001  # raised by `start`, or by the next `ask`
            self._fail(error, started)

    def _turn(self, data: RouterSocket, weights: RouterSocket) -> None:
        now = self.last_loop_at = time.monotonic()
        if self._door is not None and self._door.tick(now):
            self._admission.revoke(self._door.authorised)
        ignored = 0
        for peer, key, parts in data.receive():
            ignored += self.intake.take(self._sender(peer, key), parts, now)
            if ignored >= _REST_AFTER_BYTES:
                break
        for peer, key, parts in weights.receive():
            used = self._on_weights(weights, self._sender(peer, key), parts, now)
            ignored += used
            if not used or ignored >= 2 * _REST_AFTER_BYTES:
                break  # one answer, 2 MiB, in a turn: chunks do not wait behind a whole fleet's weights
        self._calls.run_pending()
        self._admission.tick(time.monotonic())
        self._admission.acknowledge()
        for arrival in self._admission.arrivals:
            self._deliver(arrival)
        self._admission.arrivals.clear()
        for peer, message in self._admission.replies:
            data.send(peer, codec.encode(message))
        self._admission.replies.clear()
        if ignored >= _REST_AFTER_BYTES:
            wait((), self._calls.waker, _REST_SECONDS)
        now = time.monotonic()
        if now - self._viewed > _VIEW_SECONDS:
            self._viewed = now
            self._auth_refused = {why: data.refused[why] + weights.refused[why] for why in data.refused}
            self.view = self.look(data.would_block + weights.would_block)

    def look(self, would_block: int = 0) -> ServerStatus:
        """The present state; only in the network thread (`ask`) or after it ended."""
        admission = self._admission
        seats = [seat for seat in admission.seats if seat.peer is not None]
        heard = time.monotonic() + LEASE_SECONDS  # when a lease ends that is renewed now
        oldest = min((seat.expires for seat in seats), default=heard)
        return ServerStatus(
            totals=admission.ledger.totals(),
            sessions_seen=admission.ledger.sessions_seen,
            actors=len(seats),
            heartbeat_age_max_seconds=max(0.0, heard - oldest),
            playing=sum(seat.granted_at is not None for seat in seats),
            fleet=tuple(seat.shown(heard) for seat in seats if seat.slot < _SHOWN_SLOTS),
            chunk_seconds=admission.credit.usual_seconds,
            first_credit_at=admission.first_credit_at,
            actor_phases=dict(admission.seats.phase_seconds),
            messages=dict(self.intake.messages),
            events=dict(admission.events),
            wire_errors=dict(self.intake.wire_errors),
            duplicates=admission.duplicates,
            received_bytes=self.intake.received_bytes,
            chunk_bytes=self.intake.chunk_bytes,
            chunk_steps=self.intake.chunk_steps,
            weights_bytes=self._publisher.sent_bytes,
            weights_pulls=self._publisher.pulls,
            would_block=would_block,
            auth_refused=self._auth_refused,
            bans=self.intake.conduct.bans,
            unheard=self.intake.conduct.unheard,
        )

    def _sender(self, peer: bytes, key: str) -> Sender:
        name = self._door.authorised.get(key) if self._door is not None else None
        return Sender(peer, key, name)

    def _on_weights(self, weights: RouterSocket, sender: Sender, parts: list[bytes], now: float) -> int:
        """Answer a request; returns like `Intake.take`."""
        request = self.intake.take_request(sender, parts, now)
        if isinstance(request, int):
            return request
        for answer in self._publisher.answer(request):
            may = self.intake.conduct.allow_send(sender.peer, PIECE_BYTES, now)
            if not may or not weights.send(sender.peer, codec.encode(answer)):
                break  # it has had its share, or its pipe is full: it asks again
        return 0

    def _fail(self, error: BaseException, started: Future[None]) -> None:
        if not started.done():
            started.set_exception(error)
            return
        log.error("network_thread_died", exc_info=error)
        self.failure = Fatal(
            EXIT_INTERNAL,
            f"expected the network thread to serve on, got {error!r}: its ports are closed; --resume the run",
        )
        self._calls.end(self.failure)
