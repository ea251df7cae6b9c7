"""Several processes that share one correction."""
