"""Bundles on disk: written whole, and described. Knows no network."""
