"""Damaged images, decoded by the service."""
