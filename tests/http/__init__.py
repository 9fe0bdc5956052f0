"""Tests of `app.http`, most of them through the whole application without sockets."""
