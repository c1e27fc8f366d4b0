"""`python -m tests.support.never_loads FD`: a fork server that does not come to its requests."""

import time

if __name__ == "__main__":
    time.sleep(600)
