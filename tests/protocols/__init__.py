"""Tests of `app/protocols`."""
