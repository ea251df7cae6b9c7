"""Sphinx extension: writes command_line.md, every command with its help page, from the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PAGE = Path(__file__).with_name("command_line.md")
HEAD = """# Command line

This page is generated from the program's help. JSON goes to standard output, messages and progress
to standard error. Every option can also be set in the environment, as `EMCL_RERANK_<OPTION>` or
`EMCL_RERANK_<COMMAND>_<OPTION>`. Exit status: 0 success, 1 failure, 2 wrong usage.

Input files: [formats](formats.md). Output files: [outputs](outputs.md).
"""
FOOT = """```{toctree}
:hidden:

formats
outputs
```
"""


def page() -> str:
    """The page, in MyST."""
    from emcl_plugin.cli.main import command

    parts = [HEAD]
    context = click.Context(command, info_name="emcl-rerank", terminal_width=88)
    found: list[tuple[str, click.Command, click.Context]] = [("emcl-rerank", command, context)]
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        below = click.Context(inner, info_name=name, parent=context, terminal_width=88)
        found.append((f"emcl-rerank {name}", inner, below))
    for name, one, its in found:
        parts.append(f"## {name}\n\n```text\n{one.get_help(its)}\n```\n")
    parts.append(FOOT)
    return "\n".join(parts)


def write(app: Any) -> None:
    """Renew the page before the site is built."""
    del app
    PAGE.write_text(page(), encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
