"""`model_export/checkpoints/swin_weights.py`: a Swin is found with any prefix and head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model_export.checkpoints import openmmlab, timm
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.variants import MEAN, STD
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from tests.references.draw import draw_pixels
from tests.references.stored import stored
from tests.support.networks import save_checkpoint, transformers_swin

Weights = dict[str, Tensor]
SIZE = Options(input_size=(64, 64))


def timm_weights() -> Weights:
    """Return the weights of the network with stored logits: 37 classes, 48 features."""
    return stored("timm").state_dict("pipeline")


def images(*size: int) -> Tensor:
    """Return the two normalized images that the stored logits belong to."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(draw_pixels(2, *size)).permute(0, 3, 1, 2) / 255 - mean) / std


def logits(checkpoint: Checkpoint) -> Any:
    """Return the logits of `swin.py` with the checkpoint's weights."""
    with torch.inference_mode():
        return checkpoint.network(images(*checkpoint.network.config.input_size)).numpy()


def read(content: Any, folder: Path, **options: Any) -> Checkpoint:
    """Write a file with this content and read it as a checkpoint."""
    torch.save(content, folder / "weights.pth")
    return read_checkpoint(str(folder / "weights.pth"), Options(input_size=(64, 64), **options))


def assert_like_timm(checkpoint: Checkpoint) -> None:
    """Check that the logits are those of timm."""
    expected = stored("timm").arrays["pipeline"]

    assert np.abs(logits(checkpoint) - expected).max() <= 1e-5 * np.ptp(expected)


def under(prefix: str, weights: Weights) -> Weights:
    """Return the weights with this prefix."""
    return {prefix + name: weight for name, weight in weights.items()}


def headed(head: str, weights: Weights) -> Weights:
    """Return the weights with another name of the head."""
    return {name.replace("head.fc.", head): weight for name, weight in weights.items()}


METRICS = {
    "loss.weight": torch.ones(37),
    "criterion.weight": torch.ones(37),
    "criterion.cross_entropy.pos_weight": torch.ones(37),
    "train_acc.tp": torch.zeros(37, dtype=torch.int64),
    "val_metrics.f1.fn": torch.zeros(37),
    "confusion_matrix.confmat": torch.zeros(37, 37),
    "class_weights": torch.ones(37),
    "valid_top5.total": torch.tensor(3),
}
READ: dict[str, Callable[[Weights], Any]] = {
    "Lightning": lambda own: {"state_dict": under("model.", own), "hyper_parameters": {"lr": 0.1}},
    "Lightning with a loss and metrics": lambda own: {"state_dict": under("model.", own) | METRICS},
    "two prefixes": lambda own: under("module._orig_mod.", own),
    "an averaged model": lambda own: under("module.", own) | {"n_averaged": torch.tensor(3)},
    "a sequential head": lambda own: headed("head.1.", own),
    "a sequential head within timm's": lambda own: headed("head.fc.1.", own),
    "a flat head": lambda own: headed("head.", own),
    "fc": lambda own: headed("fc.", own),
    "a wrapper": lambda own: headed("fc.", {name.replace("head.fc", "fc"): w for name, w in own.items()}),
    "a backbone and fc": lambda own: _wrapped("backbone.", "fc.", own),
    "a backbone and classifier": lambda own: _wrapped("backbone.", "classifier.", own),
    "a backbone and a sequential classifier": lambda own: _wrapped("encoder.", "classifier.1.", own),
    "a backbone in Lightning": lambda own: {"state_dict": _wrapped("net.backbone.", "net.head.", own) | METRICS},
    "a metric's head": lambda own: headed("metric_head.", own),
    "centers of classes": lambda own: own | {"center_loss.centers": torch.ones(37, 48)},
    "compiled blocks": lambda own: {name.replace("blocks.0.", "blocks.0._orig_mod."): w for name, w in own.items()},
    "checkpointed blocks in FSDP": lambda own: under(
        "_fsdp_wrapped_module.",
        {
            name.replace("attn.", "attn._checkpoint_wrapped_module.").replace("proj.w", "proj._orig_mod.w"): own[name]
            for name in own
        },
    ),
    "a convolution for a head": lambda own: own | {"head.fc.weight": own["head.fc.weight"][:, :, None, None]},
    "sets in sets": lambda own: {"checkpoint": {"model": {"state_dict": own}, "epoch": 3}},
}


def _wrapped(body: str, head: str, own: Weights) -> Weights:
    inside = {name: weight for name, weight in own.items() if not name.startswith("head.")}
    return under(body, inside) | {head + kind: own[f"head.fc.{kind}"] for kind in ("weight", "bias")}


@pytest.mark.parametrize("case", READ)
def test_timm_s_network_is_read(case: str, tmp_path: Path) -> None:
    """The logits are timm's, whichever names training code gives to network and head."""
    checkpoint = read(READ[case](timm_weights()), tmp_path)

    assert checkpoint.source.kind == "timm"
    assert_like_timm(checkpoint)


def test_a_head_by_another_name_gives_a_note(tmp_path: Path) -> None:
    """A head with an unusual name is reported in a note; the usual one is not."""
    assert not read(timm_weights(), tmp_path).notes
    [note] = read(headed("head.1.", timm_weights()), tmp_path).notes
    assert note.startswith("head: head.1.weight is taken for the one linear layer")


def test_a_head_without_a_bias(tmp_path: Path) -> None:
    """A head without a bias gives the logits of a zero bias, and a note."""
    weights = timm_weights()
    weights["head.fc.bias"].zero_()
    expected = logits(read(weights, tmp_path))
    del weights["head.fc.bias"]

    found = read(weights, tmp_path)

    assert np.array_equal(expected, logits(found))
    assert found.notes[0].startswith("head: head.fc.weight has no bias; a head that normalizes")


def test_torchvision_s_network_in_a_wrapper(tmp_path: Path) -> None:
    """A backbone of torchvision with a separate head gives torchvision's logits."""
    own = stored("torchvision").state_dict("pipeline")
    body = {f"net.{name}": weight for name, weight in own.items() if not name.startswith("head.")}
    checkpoint = read(body | {f"fc.1.{kind}": own[f"head.{kind}"] for kind in ("weight", "bias")}, tmp_path)
    expected = stored("torchvision").arrays["pipeline"]

    assert checkpoint.source.kind == "torchvision"
    assert np.abs(logits(checkpoint) - expected).max() <= 1e-5 * np.ptp(expected)


class UnfoldMerging(nn.Module):
    """OpenMMLab's patch merging: `nn.Unfold`, norm, reduction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge `(batch, height, width, channels)` to `(batch, height/2, width/2, 2·channels)`."""
        batch, height, width, _ = x.shape
        neighbors = nn.functional.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).mT
        merged: Tensor = self.reduction(self.norm(neighbors))
        return merged.view(batch, height // 2, width // 2, -1)


def test_openmmlab_s_network(tmp_path: Path) -> None:
    """Weights with OpenMMLab's names give the logits of a network that merges with `nn.Unfold`."""
    authors = timm.renamed(timm_weights())
    names = {}
    for name in authors:
        called = name
        for old, new in (
            ("patch_embed.proj.", "patch_embed.projection."),
            ("layers.", "stages."),
            (".attn.", ".attn.w_msa."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
        ):
            called = called.replace(old, new)
        called = called.replace("norm.", "norm3.") if called.startswith("norm.") else called
        names[name] = f"head.fc.{name[5:]}" if name.startswith("head.") else f"backbone.{called}"
    checkpoint = read({"meta": {"epoch": 1}, "state_dict": {names[n]: w for n, w in authors.items()}}, tmp_path)
    expected_network = read({"model": authors}, tmp_path).network  # gets merging in OpenMMLab's order
    merging = UnfoldMerging(24)
    merging.load_state_dict({name: authors[f"layers.0.downsample.{name}"] for name in merging.state_dict()})
    expected_network.layers[0].downsample = merging
    with torch.inference_mode():
        expected = expected_network(images(64, 64)).numpy()

    assert np.abs(logits(checkpoint) - expected).max() <= 1e-5 * np.ptp(expected)
    assert checkpoint.notes[0].startswith("the names are OpenMMLab's")


def test_openmmlab_s_version_2_is_refused() -> None:
    """OpenMMLab's Swin V2, which orders blocks and merging differently, is refused."""
    with pytest.raises(UnsupportedModel, match="OpenMMLab's names of Swin V2"):
        openmmlab.converted({"stages.0.blocks.0.attn.w_msa.logit_scale": torch.zeros(1)})


def test_simmim_s_names(tmp_path: Path) -> None:
    """Weights with SimMIM's name `rpe_mlp` give the same logits as with the name `cpb_mlp`."""
    weights = timm.renamed(stored("timm").state_dict("v2"))
    options = {"architecture": None, "window": 8}
    tables = {
        f"layers.{stage}.blocks.{block}.attn.relative_position_index": torch.zeros(64, 64, dtype=torch.int64)
        for stage in (0, 1)
        for block in (0, 1)
    }
    expected = read({"model": weights | tables}, tmp_path, **options)
    old = {name.replace("cpb_mlp", "rpe_mlp"): weight for name, weight in (weights | tables).items()}
    found = read({"model": old}, tmp_path, **options)

    assert np.array_equal(logits(expected), logits(found))


def test_two_networks_are_named(tmp_path: Path) -> None:
    """Two networks in one file are named in the error, and `--weights` chooses one."""
    own, other = timm_weights(), {name: torch.zeros_like(weight) for name, weight in timm_weights().items()}
    pair = under("student.", own) | under("teacher.", other)

    with pytest.raises(CheckpointError, match=r"several sets of weights: student, teacher; choose one with --weights"):
        read({"state_dict": pair}, tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights under 'model', but under student, teacher"):
        read({"state_dict": pair}, tmp_path, weights="model")
    assert_like_timm(read({"state_dict": pair}, tmp_path, weights="student"))
    with pytest.raises(CheckpointError, match="several sets of weights: model, model_ema; choose one"):
        read({"model": own, "model_ema": under("module.", other)}, tmp_path)
    assert_like_timm(read({"model": own, "model_ema": under("module.", other)}, tmp_path, weights="model"))


UNKNOWN: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "two layers": (
        lambda own: _wrapped("", "head.3.", own) | {"head.0.weight": torch.ones(48, 48), "head.0.bias": torch.ones(48)},
        r"more than one layer: head\.0\.bias \(48\), head\.0\.weight \(48×48\), head\.3\.bias",
    ),
    "a norm in the head": (
        lambda own: _wrapped("", "head.1.", own) | {"head.0.weight": torch.ones(48)},
        r"the head has more than one layer: head\.0\.weight \(48\), .*, so fine-tune the network with one$",
    ),
    "a temperature beside the network": (
        lambda own: under("model.", own) | {"temperature": torch.ones(1)},
        r"there is temperature \(1\), which is unknown; if the network does not use it, give --weights model$",
    ),
    "a mean within the network": (
        lambda own: under("model.", own) | {"model.mean": torch.ones(3, 1, 1)},
        r"there is model\.mean \(3×1×1\), which is unknown$",
    ),
    "a second head": (
        lambda own: under("model.", own) | {"fc.weight": torch.ones(5, 37), "fc.bias": torch.ones(5)},
        r"there is fc\.bias \(5\), fc\.weight \(5×37\), which is unknown; if the network .* --weights model$",
    ),
    "another number of features": (
        lambda own: _wrapped("", "fc.", own) | {"fc.weight": torch.ones(37, 96)},
        r"after a network with 48 features there is fc\.bias \(37\), fc\.weight \(37×96\), which is not one linear",
    ),
    "classes in an angular loss": (
        lambda own: _wrapped("", "fc.", own) | {"metric_fc.weight": torch.ones(5, 37)},
        r"the classes may be in metric_fc\.weight \(5×37\), a loss with weights of its own",
    ),
    "classes in a loss's transposed matrix": (
        lambda own: own | {"loss_fn.W": torch.ones(37, 5)},
        r"the classes may be in loss_fn\.W \(37×5\)",
    ),
    "classes in proxies": (lambda own: own | {"criterion.proxies": torch.ones(5, 37)}, r"may be in criterion\.proxies"),
    "two heads on the features": (
        lambda own: own | {"loss.weight": torch.ones(37, 48)},
        r"the classes may be in loss\.weight \(37×48\)",
    ),
    "no head but in a loss": (
        lambda own: _without_head("backbone.", own) | {"loss_fn.W": torch.ones(48, 5)},
        r"the classes may be in loss_fn\.W \(48×5\)",
    ),
    "a head for distillation": (
        lambda own: own | {"head_dist.weight": torch.ones(37, 48)},
        r"there are several heads on the features: .*head_dist\.weight \(37×48\); keep one of them",
    ),
    "weight normalization": (
        lambda own: (
            _without_head("", own) | {"head.fc.weight_g": torch.ones(37, 1), "head.fc.weight_v": own["head.fc.weight"]}
        ),
        r"head\.fc\.weight_g is of a head with weight normalization; remove the normalization .*remove_weight_norm",
    ),
    "integers": (
        lambda own: own | {"layers.0.blocks.0.mlp.fc1.weight": torch.ones(96, 24, dtype=torch.int8)},
        (
            r"weights: layers\.0\.blocks\.0\.mlp\.fc1\.weight holds int8, which is not supported; "
            "save the weights .* float32"
        ),
    ),
    "complex numbers": (lambda own: own | {"norm.bias": torch.ones(48, dtype=torch.complex64)}, "norm.bias holds comp"),
    "float8": (lambda own: own | {"norm.bias": torch.ones(48).to(torch.float8_e4m3fn)}, "norm.bias holds float8_e4m3"),
    "a sparse matrix": (
        lambda own: own | {"head.fc.weight": own["head.fc.weight"].to_sparse()},
        "holds sparse_coo, cpu",
    ),
    "no numbers": (lambda own: own | {"norm.bias": torch.ones(48, device="meta")}, "norm.bias holds strided, meta"),
    "more numbers than are stored": (
        lambda own: (
            own | {"head.fc.weight": torch.ones(1).expand(2**38, 48), "head.fc.bias": torch.ones(1).expand(2**38)}
        ),
        r"weights: head\.fc\.(weight|bias) declares 274877906944\S* numbers, and the file holds fewer",
    ),
    "no head": (lambda own: _without_head("backbone.", own), "no head for classes in these weights: they are a backb"),
    "a masked network": (
        lambda own: (
            _without_head("encoder.", own)
            | {"encoder.mask_token": torch.ones(1, 1, 24), "decoder.0.bias": own["norm.bias"]}
        ),
        r"encoder\.mask_token belongs to a masked-image-modeling network",
    ),
    "a missing weight": (
        lambda own: {
            name: w for name, w in under("model.", own).items() if "layers.1.downsample.norm.bias" not in name
        },
        r"weights: model\.layers\.1\.downsample\.norm\.bias is missing$",
    ),
    "a wrong shape": (
        lambda own: under("model.", own) | {"model.layers.0.blocks.1.mlp.fc1.bias": torch.ones(3)},
        r"weights: model\.layers\.0\.blocks\.1\.mlp\.fc1\.bias has shape 3, the configuration asks for 96$",
    ),
    "an adapter": (
        lambda own: own | {"layers.0.blocks.0.attn.qkv.lora_A.default.weight": torch.ones(4, 24)},
        r"lora_A\.default\.weight belongs to a PEFT adapter; call merge_and_unload\(\)",
    ),
    "swinv2_cr": (
        lambda _: {
            "patch_embed.proj.weight": torch.ones(24, 3, 4, 4),
            "stages.0.blocks.0.attn.meta_mlp.fc1.weight": torch.ones(3, 2),
        },
        "belongs to timm's swinv2_cr, which is another network than Swin V2",
    ),
    "a ViT": (
        lambda _: {
            "cls_token": torch.ones(1, 1, 8),
            "patch_embed.proj.weight": torch.ones(8, 3, 4, 4),
            "blocks.0.norm1.weight": torch.ones(8),
        },
        "cls_token belongs to a Vision Transformer",
    ),
    "a ResNet": (lambda _: {"layer1.0.conv1.weight": torch.ones(3)}, "layer1.0.conv1.weight; .* belongs to a ResNet"),
    "a detector": (
        lambda own: _without_head("backbone.", own) | {"rpn_head.rpn_conv.weight": torch.ones(3, 3, 3, 3)},
        "belongs to a network for detection or segmentation",
    ),
    "numbers of numpy": (
        lambda own: {name: weight.numpy() for name, weight in own.items()},
        r"is a numpy\.\S+, not a tensor; .*torch\.save\(model\.state_dict\(\)",
    ),
    "a whole network": (
        lambda _: {"model": nn.Sequential(nn.Linear(2, 2)), "epoch": 3},
        r"model is a whole network, a pickled torch\.nn\.modules\.container\.Sequential, .*torch\.save\(",
    ),
}


def _without_head(prefix: str, own: Weights) -> Weights:
    return under(prefix, {name: weight for name, weight in own.items() if not name.startswith("head.")})


@pytest.mark.parametrize("case", UNKNOWN)
def test_weights_that_cannot_be_read_are_named(case: str, tmp_path: Path) -> None:
    """Weights that cannot be read raise a `RequestError` of one line with the file's own names."""
    make, sentence = UNKNOWN[case]

    with pytest.raises(RequestError, match=sentence) as refused:
        read(make(timm_weights()), tmp_path)

    assert "\n" not in str(refused.value)


def test_the_prefix_leaves_other_tensors_out(tmp_path: Path) -> None:
    """`--weights` with the network's prefix ignores tensors beside the network."""
    content = under("model.", timm_weights()) | {"temperature": torch.ones(1)}

    assert_like_timm(read(content, tmp_path, weights="model"))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("form", ["module names", "state dict", "prefix", "compiled", "sequential classifier"])
def test_names_of_transformers_5(version: int, form: str, tmp_path: Path) -> None:
    """A folder with names of transformers 4 or 5, also with a prefix, gives its logits."""
    network = transformers_swin(version=version)
    save_checkpoint(tmp_path / "folder", version=version)
    weights = dict(network.state_dict())
    (tmp_path / "folder" / "model.safetensors").unlink()
    if form == "module names":
        network.save_pretrained(tmp_path / "folder", save_original_format=False)
    elif form == "sequential classifier":
        save_file(
            {n.replace("classifier.", "classifier.1."): w for n, w in weights.items()},
            tmp_path / "folder" / "model.safetensors",
        )
    else:
        prefix = {"state dict": "", "prefix": "module.", "compiled": "_orig_mod."}[form]
        torch.save(under(prefix, weights), tmp_path / "folder" / "pytorch_model.bin")
    checkpoint = read_checkpoint(str(tmp_path / "folder"))
    pixels = images(*checkpoint.network.config.input_size)
    with torch.inference_mode():
        expected = network.eval()(pixel_values=pixels).logits.numpy()

    assert np.abs(logits(checkpoint) - expected).max() <= 1e-5 * np.ptp(expected)
    assert np.array_equal(checkpoint.reference.logits(pixels).numpy(), expected)


def test_errors_have_the_names_of_transformers_5(tmp_path: Path) -> None:
    """A missing weight is named as in files of transformers 5."""
    folder = save_checkpoint(tmp_path / "folder")
    transformers_swin().save_pretrained(folder, save_original_format=False)
    weights = load_file(folder / "model.safetensors")
    del weights["swin.encoder.layers.0.blocks.0.mlp.fc1.bias"]
    save_file(weights, folder / "model.safetensors")

    with pytest.raises(
        CheckpointError, match=r"weights: swin\.encoder\.layers\.0\.blocks\.0\.mlp\.fc1\.bias is missing"
    ):
        read_checkpoint(str(folder))
