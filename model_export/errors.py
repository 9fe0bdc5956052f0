"""The exceptions of the build step.

Exception
└── ExportError                the command failed; exit code 1 unless a subclass sets another
    ├── RequestError           an argument or an input is wrong; exit code 2
    │   ├── CheckpointError    the checkpoint cannot be read or contradicts itself
    │   └── UnsupportedModel   the checkpoint can be read, but swin-serve does not export this network
    ├── VerificationFailed     a verification stage found a difference above its tolerance
    └── PrecisionLost          the converted graph disagrees with the float32 graph too often

The message of each exception is one sentence for the terminal. After an exception, no bundle is written.
"""


class ExportError(Exception):
    """A failure of the command."""

    exit_code = 1


class RequestError(ExportError):
    """An argument or an input that cannot be used."""

    exit_code = 2


class CheckpointError(RequestError):
    """A checkpoint that cannot be read or contradicts itself."""


class UnsupportedModel(RequestError):
    """A checkpoint of a network that swin-serve does not export."""


class VerificationFailed(ExportError):
    """A verification stage with a difference above its tolerance."""

    def __init__(self, stage: str, detail: str) -> None:
        super().__init__(f"verification failed at stage '{stage}': {detail}")
        self.stage = stage


class PrecisionLost(ExportError):
    """A converted graph that disagrees with the float32 graph too often."""

    def __init__(self, precision: str, agreement: float, min_agreement: float, images: int) -> None:
        super().__init__(
            f"the best class of {precision} equals that of float32 for {agreement:.1%} of {images} images, below "
            f"--min-agreement {min_agreement:.1%}; choose another --precision or lower --min-agreement"
        )
