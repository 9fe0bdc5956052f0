"""Tests of `model_export.onnx_graph`. They need torch."""
