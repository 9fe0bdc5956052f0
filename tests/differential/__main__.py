"""`python -m tests.differential`: compare decoders on generated images."""

import sys

from tests.differential.compare import main

if __name__ == "__main__":
    sys.exit(main())
