"""The authors' own files: `{"model": …}` with the names that `swin.py` uses, and the tables their code computes.

github.com/microsoft/Swin-Transformer. Their code is no package that could be asked; timm's port of it loads these files
and is the reference where it is installed.
"""

from collections.abc import Mapping
from typing import Any

from app.bundle.manifest import Preprocessing
from model_export.checkpoints import state_dict
from model_export.checkpoints.checkpoint import Checkpoint, Options, RawCheckpoint
from model_export.checkpoints.reference import Ours, Reference
from model_export.checkpoints.timm import timm_reference
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.errors import UnsupportedModel
from model_export.network.swin import Swin, SwinConfig


def read(
    found: RawCheckpoint, options: Options, training: Training = NO_TRAINING, content: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read what the authors' training saves.

    Raises:
        CheckpointError: the weights are no Swin's, or leave something open.
    """

    def reference(network: Swin, recipe: Preprocessing, is_resized: bool) -> Reference:  # noqa: FBT001 (by place)
        if is_resized:
            return Ours(network, recipe, "resized, which timm does otherwise")
        return timm_reference(found.weights, network, recipe)

    checkpoint = state_dict.read(
        found,
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
    """The authors' classifiers do not pad: they fail on a map that the windows, or the merging, do not divide."""
    for stage in range(len(config.depths)):
        grid, window = config.stage_grid(stage), config.windowing(stage, 0).size
        if grid[0] % window[0] or grid[1] % window[1]:
            raise UnsupportedModel(
                f"stage {stage}: windows of {window[0]} do not divide a map of {grid[0]}×{grid[1]}; the authors' "
                "network does not run so. Another --window or --input-size would"
            )
