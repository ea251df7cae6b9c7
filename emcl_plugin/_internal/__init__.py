"""Private helpers: arrays, sizes, progress, warnings."""
