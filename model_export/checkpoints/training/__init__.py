"""Settings that training scripts save beside the weights. Knows no weights."""
