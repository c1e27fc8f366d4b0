"""How long a session may be silent before it is given up. Time comes in as `now`."""

from __future__ import annotations

from learner.server.sessions import SessionRecord, SessionTable

LEASE_SECONDS = 10.0
SETUP_SECONDS = 120.0  # an actor cannot speak while it builds environments or resets its lanes
RESTORED_SECONDS = 30.0  # what a session of an earlier generation has to come back
_PAUSE_SECONDS = 1.0  # a gap in our own loop that extends every lease


class Leases:
    """Over `SessionRecord.expires` of every seat. Owned by the network thread, through `Admission`."""

    def __init__(self, seats: SessionTable) -> None:
        self._seats = seats
        self._turned = 0.0

    def renew(self, seat: SessionRecord, now: float, plays: bool) -> None:
        """A session was heard; time to set up is over once it plays, and not before."""
        seat.expires = now + LEASE_SECONDS if plays else max(seat.expires, now + LEASE_SECONDS)

    def set_up(self, now: float) -> None:
        """Everybody's lanes start anew."""
        for seat in self._seats:
            if seat.peer is not None:
                seat.expires = max(seat.expires, now + SETUP_SECONDS)

    def turn(self, now: float) -> None:
        """The loop turns; who could not be heard while it stood still was not silent."""
        pause = now - self._turned
        if self._turned and pause > _PAUSE_SECONDS:
            for seat in self._seats:
                seat.expires += pause
        self._turned = now

    def silent(self, now: float) -> list[SessionRecord]:
        """Whose time is up."""
        return [seat for seat in self._seats if now > seat.expires]
