"""What can go wrong in the build step.

Exception
└── ExportError            one sentence for the person at the terminal; exit code 1 unless said otherwise
    ├── RequestError       the request itself is wrong; exit code 2
    │   ├── CheckpointError    the checkpoint cannot be read, or contradicts itself
    │   └── UnsupportedModel   it can be read, but is not a network this project exports
    ├── ProofFailed        a stage of the proof found a difference; no bundle is written
    └── PrecisionLost      the converted graph disagrees with the proved one too often; no bundle is written
"""


class ExportError(Exception):
    """The work failed."""

    exit_code = 1


class RequestError(ExportError):
    """What was asked for cannot be done."""

    exit_code = 2


class CheckpointError(RequestError):
    """The checkpoint cannot be read, or contradicts itself."""


class UnsupportedModel(RequestError):
    """The checkpoint is not a network this project exports."""


class ProofFailed(ExportError):
    """A stage of the proof found a difference beyond its tolerance."""

    def __init__(self, stage: str, detail: str) -> None:
        super().__init__(f"proof failed at stage '{stage}': {detail}")
        self.stage = stage


class PrecisionLost(ExportError):
    """The converted graph disagrees with the proved one too often."""

    def __init__(self, precision: str, agreement: float, wanted: float, images: int) -> None:
        super().__init__(
            f"{precision} gives the best class of float32 for {agreement:.1%} of {images} images, but {wanted:.1%} are "
            "asked for; --min-agreement says what is enough"
        )
