"""Tests with the clients of other projects, each in a virtual environment of its own."""
