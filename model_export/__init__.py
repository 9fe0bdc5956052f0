"""The build step: a checkpoint becomes a bundle. Never imported by the service."""
