"""Entry point of `python -m model_export`, the same command as `swin-export`."""

import sys

from model_export.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
