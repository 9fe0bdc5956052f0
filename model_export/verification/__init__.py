"""The verification that a bundle computes the same as its checkpoint. Knows no file format of a checkpoint."""
