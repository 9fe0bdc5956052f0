"""Inference: pixels → logits, by ONNX Runtime on a verified device.

The only package that imports ONNX Runtime. Knows no queue and no HTTP.
"""
