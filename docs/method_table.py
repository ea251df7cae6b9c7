"""Sphinx extension: the directive `methods`, a table of the methods to compare with."""

from __future__ import annotations

from typing import Any

from docutils.nodes import Node
from sphinx.util.docutils import SphinxDirective

from emcl_plugin.baselines import METHODS


def table() -> str:
    """Every method with what it needs, in Markdown."""
    lines = ["| name | method | needs | bank | serves |", "|---|---|---|---|---|"]
    for name, method in METHODS.items():
        needs = ", ".join(method.needs) or "scores only"
        yes = ["yes" if is_so else "no" for is_so in (method.bank, method.serves)]
        lines.append(f"| `{name}` | {method.title} | {needs} | {yes[0]} | {yes[1]} |")
    return "\n".join(lines)


class Methods(SphinxDirective):
    """Writes the table where it stands."""

    def run(self) -> list[Node]:
        """The table's nodes."""
        return self.parse_text_to_nodes(table())


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_directive("methods", Methods)
    return {"parallel_read_safe": True}
