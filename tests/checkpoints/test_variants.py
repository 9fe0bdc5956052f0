"""Exported graphs of the published variants, compared with their source libraries."""

from pathlib import Path

import pytest

from model_export.checkpoints.variants import VARIANTS
from tests.references.table import SOURCES, has, measure

# One variant of each version. An export of the smallest takes half a minute.
IN_MINUTES = {("timm", "swin_tiny_patch4_window7_224"), ("huggingface", "swinv2_tiny_window8_256")}
CASES = [
    pytest.param(source, variant, marks=[] if (source, variant) in IN_MINUTES else pytest.mark.slow)
    for variant in VARIANTS
    for source in SOURCES
    if has(source, variant)
]


@pytest.mark.usefixtures("much_memory")
@pytest.mark.parametrize(("source", "variant"), CASES)
def test_the_graph_gives_the_source_s_logits(source: str, variant: str, tmp_path: Path) -> None:
    """The graph with random weights differs from the source by at most 1e-4 of the logit range."""
    row = measure(source, variant, tmp_path)

    assert row.differences[source] <= 1e-4
