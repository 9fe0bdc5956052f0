"""Tests of `app.load`."""
