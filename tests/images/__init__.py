"""Tests of `app.images`."""
