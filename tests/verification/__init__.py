"""Tests of `model_export.verification`. Need torch."""
