"""Load for a service over HTTP: connections, open and closed loops, and the figures of a window.

Knows no bundle, no engine and no command.
"""
