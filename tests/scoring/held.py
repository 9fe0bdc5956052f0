"""`python -m tests.scoring.held PARTS score …`: writes a part for each chunk, and waits after so many parts.

Prints `held` when it waits, and goes on when a line arrives on standard input.
"""

import sys
from collections.abc import Sequence
from typing import Any

from app.cli.main import main
from app.scoring import job
from app.scoring.output import Output


class HeldOutput(Output):
    """An output that waits once after the part of this number."""

    parts_left = int(sys.argv[1])

    def write(self, first: int, batches: Sequence[Any]) -> None:
        super().write(first, batches)
        HeldOutput.parts_left -= 1
        if HeldOutput.parts_left == 0:
            print("held", flush=True)  # noqa: T201 (what the test waits for)
            sys.stdin.readline()


if __name__ == "__main__":
    vars(job).update(Output=HeldOutput, PART_SECONDS=0)
    sys.exit(main(sys.argv[2:]))
