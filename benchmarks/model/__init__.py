"""The cost of one image without any service."""
