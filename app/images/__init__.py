"""Bytes → pixels, and pixels → PNG. Knows no model, no queue and no HTTP."""
