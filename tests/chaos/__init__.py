"""Chaos tests: load with failing engines and misbehaving clients, and stops under load."""
