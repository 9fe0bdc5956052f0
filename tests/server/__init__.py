"""Tests of `app.server`, with and without sockets."""
