"""Settings that training scripts save beside the weights. Knows nothing about weights."""
