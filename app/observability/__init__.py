"""Logs, metrics and utilization. Imports no other package of the service."""
