"""HTTP service of a fitted corrector."""
