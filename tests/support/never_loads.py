"""`python -m tests.support.never_loads FD`: a fork server that never serves a request."""

import time

if __name__ == "__main__":
    time.sleep(600)
