"""Entry point of `python -m benchmarks.model`."""

import sys

from benchmarks.model.costs import main

if __name__ == "__main__":
    sys.exit(main())
