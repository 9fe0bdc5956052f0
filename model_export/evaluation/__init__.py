"""Accuracy on labeled images. Knows no checkpoint and no torch."""
