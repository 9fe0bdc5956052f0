"""The build step, which exports a checkpoint to a bundle. The service never imports this package."""
