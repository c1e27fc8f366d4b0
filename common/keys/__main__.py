"""`python -m common.keys init|add|revoke|list|bundle`."""

import sys

from common.keys.files import main

if __name__ == "__main__":
    sys.exit(main())
