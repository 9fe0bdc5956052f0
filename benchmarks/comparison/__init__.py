"""Load over HTTP: swin-serve beside other servers that serve the same network."""
