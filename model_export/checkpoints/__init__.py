"""Checkpoint formats: a file, a folder or a hub id → `Checkpoint`. Knows nothing about ONNX.

`detect.py` chooses the reader by the content of the file or folder. Each reader renames the weights
of its source to the names of `swin.py` and reads the settings beside them. `checkpoint.py` has the
steps that all readers share.
"""
