"""Classification: one image to its best classes. Knows no HTTP and no processes."""
