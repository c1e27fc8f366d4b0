"""What an actor accepts from a learner, so that a hostile one cannot run code, fill memory or stop the actor.

The codec bounds each message, `common.config` each setting. `docs/security.md` lists all bounds.
"""

from __future__ import annotations

from collections.abc import Collection

from common import envs
from common.config import Config
from common.process.lifecycle import EXIT_CONFIGURATION, EXIT_TEMPORARY, Fatal
from common.protocol import chunk
from common.spaces import Spaces

POLL_MESSAGES = 64  # read before the actor continues to play, or stops
UNSETTLED_BYTES = 1 << 30  # kept to be sent again, in chunks that the learner has not settled
BLOB_BYTES = 1 << 28  # of weights
# The shortest and the longest time that a learner can set.
HEARTBEAT_SECONDS = (0.1, 60.0)
LEASE_SECONDS = (1.0, 600.0)
RETRY_SECONDS = (0.0, 600.0)


def limited_seconds(milliseconds: int, limits_seconds: tuple[float, float]) -> float:
    """A time that the learner sets, within the limits."""
    shortest, longest = limits_seconds
    return min(max(milliseconds / 1000, shortest), longest)


def require_allowed_module(env_id: str, modules: Collection[str]) -> None:
    """Refuse an environment that would import a module, unless the actor's user allows this module.

    Raises:
        Fatal: the user has not allowed it.
    """
    module = envs.module_of(env_id)
    if module is not None and module not in modules:
        raise Fatal(
            EXIT_CONFIGURATION,
            f"expected an environment that imports nothing, got {env_id!r}: if you trust its module, start "
            f"the actor with --allow-module {module}",
        )


def require_chunk_size(config: Config, spaces: Spaces) -> None:
    """Refuse a run whose chunks take too much memory.

    Raises:
        Fatal: they do.
    """
    error = chunk.size_error(config.rollout, spaces)
    if error is not None:
        raise Fatal(EXIT_CONFIGURATION, error)


def require_settled(unsettled_bytes: int) -> None:
    """Refuse a learner that settles too little of what an actor keeps for it.

    Raises:
        Fatal: it does.
    """
    if unsettled_bytes > UNSETTLED_BYTES:
        raise Fatal(
            EXIT_TEMPORARY,
            f"expected a learner that settles chunks, got {UNSETTLED_BYTES >> 20} MiB that it left "
            "unsettled: restart the learner with --resume, or report this",
        )
