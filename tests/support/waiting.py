"""The timeout of tests."""

# The longest wait for an event. A longer wait is a hang: a busy machine needs seconds.
HANG_SECONDS = 120
