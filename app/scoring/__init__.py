"""Offline scoring: many images in, a table of classes out, on one machine or a cluster. Knows no HTTP and no queue."""
