"""`python -m tests.support.fork_fails FD`: a fork server whose second fork fails."""

from __future__ import annotations

import errno
import os

from tests.support import forks

_fork, _calls = os.fork, list[None]()


def _fails_once() -> int:
    _calls.append(None)
    if len(_calls) == 2:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return _fork()


if __name__ == "__main__":
    os.fork = _fails_once
    forks.main()
