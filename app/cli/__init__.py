"""`swin-serve`: the commands, and settings as their options. Knows no HTTP and no model."""
