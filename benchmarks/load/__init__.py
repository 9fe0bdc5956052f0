"""Clients, images and processes that the benchmarks and load tests share."""
