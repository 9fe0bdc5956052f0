"""Tests of `app.http`, through HTTP."""
