"""Files of weights: bytes → tensors by name. Knows no network and runs no code from a file."""
