"""Sphinx extension: writes command_line.md, every command with its help page, from the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PAGE = Path(__file__).with_name("command_line.md")
HEAD = """# Command line

Made from the program's own help pages. Results for machines go to standard output, words and
progress to standard error; every option can also be given in the environment, as
`EMCL_RERANK_<OPTION>` and `EMCL_RERANK_<COMMAND>_<OPTION>`. Exit status: 0 done, 1 something went
wrong, 2 wrong usage.

Files that it reads: [formats](formats.md). Files that it writes: [outputs](outputs.md).
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
