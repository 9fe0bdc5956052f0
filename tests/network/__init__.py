"""Tests of `model_export.network`. They need torch."""
