"""Several HTTP workers before one engine process: supervision, messages and shared memory. Knows no image."""
