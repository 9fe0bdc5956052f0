"""Tests mirror the packages: `test_batcher.py` is about `app/batcher.py`."""
