"""`python -m model_export`: the command `swin-export`."""

import sys

from model_export.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
