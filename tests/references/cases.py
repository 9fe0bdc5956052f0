"""The networks and transforms of the references."""

from typing import Any

SMALL: dict[str, Any] = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_classes": 10}

# Arguments of the classes of timm, in addition to SMALL.
TIMM: dict[str, dict[str, Any]] = {
    "plain": {"img_size": [64, 64]},
    "padded maps": {"img_size": [72, 104]},
    "odd maps to merge": {"img_size": [36, 44], "depths": [2, 1, 2], "num_heads": [2, 4, 4]},
    "window cut on one side": {"img_size": [48, 96], "window_size": 14},
    "window cut on both sides, not square": {"img_size": [32, 48], "window_size": 16},
    "a window for each stage": {"img_size": [64, 96], "window_size": [[4, 6], [8, 4]]},
    "no qkv bias": {"img_size": [32, 32], "qkv_bias": False},
    "v2": {"version": 2, "img_size": [64, 64], "window_size": 8, "pretrained_window_sizes": [6, 4]},
    "v2, padded maps": {"version": 2, "img_size": [72, 104], "depths": [2, 3]},
    "v2, window cut on one side": {"version": 2, "img_size": [48, 96], "window_size": 14},
    "v2, no qkv bias": {"version": 2, "img_size": [32, 32], "qkv_bias": False},
}

# Arguments of the classes of torchvision, in addition to SMALL.
TORCHVISION: dict[str, dict[str, Any]] = {
    "plain": {"img_size": [64, 64]},
    "padded maps": {"img_size": [72, 104], "depths": [2, 3]},
    "odd maps to merge": {"img_size": [36, 44], "depths": [2, 1, 2], "num_heads": [2, 4, 4]},
    "window larger than one side": {"img_size": [48, 96], "window_size": 14},
    "window larger than the map": {"img_size": [32, 48], "window_size": 10},
    "v2": {"version": 2, "img_size": [64, 64], "window_size": 8},
    "v2, padded maps": {"version": 2, "img_size": [72, 104]},
    "v2, window larger than the map": {"version": 2, "img_size": [32, 48], "window_size": 10},
}

# Arguments of `create_transform` of timm.
TRANSFORMS: dict[str, dict[str, Any]] = {
    "center": {"input_size": [3, 48, 48], "crop_pct": 0.9, "interpolation": "bicubic"},
    "center, all of it": {"input_size": [3, 48, 48], "crop_pct": 1.0, "interpolation": "bilinear"},
    "center, not square": {"input_size": [3, 40, 56], "crop_pct": 0.9, "interpolation": "bicubic"},
    "squash": {"input_size": [3, 48, 48], "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "lanczos"},
    "border": {"input_size": [3, 48, 48], "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bicubic"},
    "border, cropped": {"input_size": [3, 40, 56], "crop_pct": 0.8, "crop_mode": "border", "interpolation": "bicubic"},
    "nearest": {"input_size": [3, 48, 48], "crop_pct": 0.875, "interpolation": "nearest"},
}

# Arguments of `ImageClassification` of torchvision.
PRESETS: dict[str, dict[str, Any]] = {
    "swin_t": {"crop_size": 56, "resize_size": 58, "interpolation": "bicubic"},
    "default": {"crop_size": 48, "resize_size": 55, "interpolation": "bilinear"},
}

# Arguments and transform of a fine-tune of timm, in addition to SMALL.
TIMM_PIPELINE = {"num_classes": 37, "img_size": [64, 64]}
TIMM_RECIPE = {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center"}

# Arguments and transform of a fine-tune of torchvision, in addition to SMALL.
TORCHVISION_PIPELINE = {"num_classes": 102, "img_size": [64, 64]}
TORCHVISION_RECIPE = {"crop_size": 64, "resize_size": 70, "interpolation": "bilinear"}

# (width, height) of the reference images, in pixels.
PICTURES = [(160, 120), (91, 130), (300, 70), (20, 17)]
