"""`python -m benchmarks.gpu`: the engine and the service on a GPU."""

import sys

from benchmarks.gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
