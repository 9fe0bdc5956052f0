"""Dynamic batching: the queue, deadlines and engine workers.

Is given callables that map a batch to a batch. Knows neither images nor ONNX Runtime.
"""
