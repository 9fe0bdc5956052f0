"""Benchmarks of the service, mostly over real sockets. Not part of the distribution."""
