"""The engine and the service on an NVIDIA GPU."""
