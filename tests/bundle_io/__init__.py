"""Tests of `model_export.bundle_io`."""
