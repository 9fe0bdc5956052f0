"""Generated images of every kind, decoded by the service, libvips and OpenCV."""
