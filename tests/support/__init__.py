"""Helpers for tests of several packages: fakes, clients, a service process."""
