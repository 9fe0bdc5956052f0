"""Tests of `app.classification`."""
