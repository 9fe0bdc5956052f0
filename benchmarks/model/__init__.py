"""Cost of one image on the CPU, without a service."""
