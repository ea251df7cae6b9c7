"""`emcl-rerank show`: the contents of a saved corrector."""

from __future__ import annotations

import json
from pathlib import Path

import click

from emcl_plugin.cli.options import PATH, json_option
from emcl_plugin.errors import escaped


@click.command(
    "show", epilog="\b\nExamples:\n  emcl-rerank show fitted\n  emcl-rerank show fitted --json"
)
@click.argument("folder", metavar="DIR", type=PATH)
@json_option
def show_command(folder: Path, as_json: bool) -> None:
    """Show the contents of the corrector saved in DIR: bank, gallery, settings.

    The folder is checked as for use; nothing in it is executed.
    """
    from emcl_plugin.cli.show import aligned, bank_summary
    from emcl_plugin.reranker import Reranker

    reranker = Reranker.from_pretrained(folder)
    corrector = reranker.corrector_
    gate = corrector.ood_gate
    known, (low, high) = len(gate.known), (gate.low, gate.high)
    facts = {
        "folder": str(folder),
        "protocol": "bank",
        "bank": len(corrector.bank),
        "gallery": len(corrector),
        "dimension": corrector.dimension,
        "dtype": str(corrector.gallery.dtype).removeprefix("torch."),
        "metric": corrector.metric,
        "settings": repr(reranker),
        "names": bool(corrector.names),
        "temperature": corrector.temperature,
        "rho": corrector.rho,
        "strength": corrector.strength,
        "emcl_directions": len(corrector.change),
        "gate": [low, high] if known else None,
        "drift": corrector.drift(),
        "fit": corrector.facts or None,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    if corrector.facts:
        click.echo(bank_summary(reranker.report_))  # type: ignore[arg-type]
    corrected = "all queries are corrected"
    if known:
        corrected = (
            f"by the cosine to the nearest of {known} bank queries: none of the correction up to "
            f"{low:.3f}, all from {high:.3f}"
            + (
                ", where they lie towards the gallery as the bank does"
                if gate.plane.shape[1]
                else ""
            )
        )
    bias, names = corrector.bias, corrector.names
    ends = int(bias.argmin()), int(bias.argmax())
    hub, lifted = (escaped(names[i]) if names else f"item {i}" for i in ends)
    lines = [
        ("gallery", f"{len(corrector)} items of dimension {corrector.dimension}, {facts['dtype']}, "
         f"{'with' if names else 'without'} names"),
        ("biases", f"{bias.min():+.4f} ({hub}, the largest hub) to {bias.max():+.4f} ({lifted})"),
        ("gate", corrected),
        ("drift", f"{100 * corrector.drift():.1f} % since the fit"),
        ("settings", repr(reranker)),
    ]  # fmt: skip
    click.echo(aligned(lines))
