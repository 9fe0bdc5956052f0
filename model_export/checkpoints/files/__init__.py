"""Checkpoint files: bytes → tensors by name. Runs no code from a file."""
