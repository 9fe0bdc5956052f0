"""`python -m tests.differential`: compare the decoders on generated images."""

import sys

from tests.differential.compare import main

if __name__ == "__main__":
    sys.exit(main())
