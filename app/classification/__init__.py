"""One image → its best classes, and evidence. Knows no HTTP and no processes."""
