"""`python -m benchmarks.model`: the cost of one image on the CPU."""

import sys

from benchmarks.model.costs import main

if __name__ == "__main__":
    sys.exit(main())
