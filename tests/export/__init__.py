"""Tests of complete builds, from a checkpoint to responses of the service. They need torch."""
