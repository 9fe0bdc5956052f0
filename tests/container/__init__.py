"""Tests of the container images and of the compose file."""
