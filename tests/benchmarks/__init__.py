"""Tests of the benchmarks: what they compute of what they measured."""
