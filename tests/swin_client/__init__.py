"""Tests of the Python client in `clients/python`."""
