"""Tests of whole builds, from a checkpoint to answers. Need torch."""
