"""`python -m benchmarks.comparison`: load over HTTP."""

import sys

from benchmarks.comparison.service import main

if __name__ == "__main__":
    sys.exit(main())
