"""Tests of the deployment for Ray Serve. They need `.venv/ray`: `make test-ray`."""
