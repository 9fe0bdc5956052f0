"""Entry point of `python -m benchmarks.comparison`."""

import sys

from benchmarks.comparison.service import main

if __name__ == "__main__":
    sys.exit(main())
