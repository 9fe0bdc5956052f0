"""The reader of the authors' files: `{"model": …}` with the names of `swin.py`.

The authors' code (github.com/microsoft/Swin-Transformer) is not a package that can be imported.
timm's port loads the same files, so timm is the reference if it is installed.
"""

from collections.abc import Mapping
from typing import Any

from app.bundle.manifest import Preprocessing
from model_export.checkpoints import state_dict
from model_export.checkpoints.checkpoint import Checkpoint, Options, RawCheckpoint
from model_export.checkpoints.reference import FallbackReference, Reference
from model_export.checkpoints.timm import timm_reference
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.errors import UnsupportedModel
from model_export.network.swin import Swin, SwinConfig


def read(
    raw: RawCheckpoint, options: Options, training: Training = NO_TRAINING, content: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read a file of the authors' training script.

    Raises:
        CheckpointError: the weights are not a Swin's, or leave a value open.
        UnsupportedModel: windows or merging do not divide a feature map.
    """

    def reference(network: Swin, recipe: Preprocessing, is_resized: bool) -> Reference:  # noqa: FBT001 (by position)
        if is_resized:
            return FallbackReference(network, recipe, "timm interpolates resized networks in another way")
        return timm_reference(raw.weights, network, recipe)

    checkpoint = state_dict.read(
        raw,
        window_convention="original",
        rename=dict,
        reference=reference,
        training=training,
        content=content,
        options=options,
    )
    _refuse_padding(checkpoint.network.config)
    return checkpoint


def _refuse_padding(config: SwinConfig) -> None:
    """Raise UnsupportedModel if windows do not divide a map: the authors' networks do not pad."""
    for stage in range(len(config.depths)):
        grid, window = config.stage_grid(stage), config.windowing(stage, 0).size
        if grid[0] % window[0] or grid[1] % window[1]:
            raise UnsupportedModel(
                f"stage {stage}: windows of {window[0]} do not divide a map of {grid[0]}×{grid[1]}, so the authors' "
                "network fails; give another --window or --input-size"
            )
