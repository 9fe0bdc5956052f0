"""An attack on a real service whose engine fails, and stops under load."""
