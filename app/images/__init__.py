"""Images: bytes to pixels, and pixels to PNG. Knows no model, no queue and no HTTP."""
