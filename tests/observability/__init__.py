"""Tests of `app.observability`."""
