"""Swin Transformer V1 and V2 as torch modules. Knows no file and no ONNX."""
