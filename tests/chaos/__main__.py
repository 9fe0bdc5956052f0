"""`python -m tests.chaos`: attack a service."""

import sys

from tests.chaos.attack import main

if __name__ == "__main__":
    sys.exit(main())
