"""The bundle: the folder that the export writes and the service reads. Knows neither images nor ONNX Runtime."""
