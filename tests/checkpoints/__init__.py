"""Tests of `model_export.checkpoints`. Need torch."""
