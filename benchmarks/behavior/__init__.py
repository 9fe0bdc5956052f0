"""Behavior of the service over time, at full queues, and as the work grows."""
