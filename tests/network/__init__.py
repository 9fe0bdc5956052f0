"""Tests of `model_export.network`. Need torch."""
