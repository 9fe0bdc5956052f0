"""ONNX graphs: export, analysis and reduced precision. Knows no checkpoint."""
