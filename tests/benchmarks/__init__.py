"""Tests of the benchmarks: clients, figures, verdicts and records."""
