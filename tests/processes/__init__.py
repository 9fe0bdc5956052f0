"""Tests of `app.processes`."""
