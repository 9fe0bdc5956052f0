"""A `swin-serve` that may open few files: `python -m tests.support.few_files`, with the number in a variable."""

import os
import resource
import sys

from app.cli.main import main

VARIABLE = "MAX_FILES"

if __name__ == "__main__":
    most = int(os.environ[VARIABLE])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.exit(main())
