"""Tests of `app.server`, over sockets and without."""
