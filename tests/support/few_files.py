"""`swin-serve` with a low limit of open files: `python -m tests.support.few_files`.

The environment variable MAX_FILES has the limit.
"""

import os
import resource
import sys

from app.cli.main import main

VARIABLE = "MAX_FILES"

if __name__ == "__main__":
    limit = int(os.environ[VARIABLE])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    sys.exit(main())
