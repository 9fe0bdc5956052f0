"""The service: images in, the best classes out. Knows no torch."""
