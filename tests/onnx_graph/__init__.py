"""Tests of `model_export.onnx_graph`. Need torch."""
