"""The writing and the description of bundles on disk. Knows no network."""
