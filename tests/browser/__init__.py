"""Tests of the page in a browser: Debian's Chromium, steered by Playwright. `make test-browser` runs them."""
