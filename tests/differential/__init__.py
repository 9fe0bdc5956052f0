"""Comparison of decoders (swin-serve, libvips, OpenCV) on generated images of every kind."""
