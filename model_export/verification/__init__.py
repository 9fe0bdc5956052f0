"""The proof that a bundle computes what its checkpoint computes. Knows no file format of a checkpoint."""
