"""How long a test waits for what has to come."""

HANG_SECONDS = 120
"""The longest wait for what has to come: it finds a hang. A busy machine needs seconds."""
