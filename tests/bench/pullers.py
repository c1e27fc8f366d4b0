"""`python -m tests.bench.pullers ENDPOINT K READERS`: K clients that pull weights in one process.

For each line on standard input, each client pulls the newest bundle; a line on standard output then has the
time, of the machine's monotonic clock, at which each client finished. With READERS above 0 a client
represents the parent of that many actors: it writes the bundle to a file and reads it that number of times.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from actor.weights import PIECE_MESSAGE_BYTES, WeightsClient
from common.protocol.sockets import Context, DealerSocket, weights_endpoint
from tests.support.fake_fleet import log_warnings_only


def main() -> int:
    """Serve until standard input is closed."""
    endpoint, count, readers = weights_endpoint(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    log_warnings_only()
    with Context() as context, tempfile.TemporaryDirectory() as directory:
        clients = [
            WeightsClient(lambda: DealerSocket(context, endpoint, PIECE_MESSAGE_BYTES)) for _ in range(count)
        ]
        held = [(-1, -1)] * count

        def pull(number: int) -> float:
            blob = None
            while blob is None:
                blob = clients[number].fetch("bundle", held[number], lambda: True)
            held[number] = (blob.generation, blob.version)
            if readers:
                path = Path(directory) / str(number)
                path.write_bytes(blob.data)
                for _ in range(readers):
                    path.read_bytes()
            return time.monotonic()

        with ThreadPoolExecutor(count) as pool:
            for _ in sys.stdin:
                print(json.dumps(list(pool.map(pull, range(count)))), flush=True)
        for client in clients:
            client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
