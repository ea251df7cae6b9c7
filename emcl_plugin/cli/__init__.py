"""The command line, `emcl-rerank`: parses and prints, decides nothing."""

from emcl_plugin.cli.main import main

__all__ = ["main"]
