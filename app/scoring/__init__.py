"""Offline scoring: many images in, a table of classes out, on one machine. Knows no HTTP and no queue."""
