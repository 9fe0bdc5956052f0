"""`swin-export`: the commands and their options. Knows nothing about how a network is exported."""
