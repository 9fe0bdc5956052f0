"""Checkpoint formats: a file, a folder or a hub id → `Checkpoint`. Knows nothing about ONNX."""
