"""Tests of `app.bundle`."""
