"""Tests of `app.batching`."""
