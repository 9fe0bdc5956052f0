"""What the service does over time, under refusals and as the work grows."""
