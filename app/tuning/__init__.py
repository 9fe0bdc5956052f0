"""The tuner: settings that hold the highest rate within a latency, proved by real processes. Knows no command."""
