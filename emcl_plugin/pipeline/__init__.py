"""One correction, from inputs to report: settings, order of the steps, memory, checkpoints."""
