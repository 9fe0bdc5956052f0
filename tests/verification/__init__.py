"""Tests of `model_export.verification`. They need torch."""
