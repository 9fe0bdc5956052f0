"""`python -m tests.fuzz`: decode damaged images."""

import sys

from tests.fuzz.decoding import main

if __name__ == "__main__":
    sys.exit(main())
