"""One correction from inputs to report: the order of things, memory, checkpoints."""
