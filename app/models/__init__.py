"""The model that is served, with each of its parts. Knows no HTTP."""
