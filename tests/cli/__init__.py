"""Tests of the commands `swin-serve` and `swin-export`."""
