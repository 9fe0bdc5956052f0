"""Load for a service over HTTP: connections, loops, windows, sweeps, and their figures.

Knows no bundle, no engine and no command.
"""
