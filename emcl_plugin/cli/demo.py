"""`emcl-rerank demo`: the main command on real embeddings that ship with the package."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from emcl_plugin.cli.options import json_option, option
from emcl_plugin.errors import escaped


@click.command(
    "demo",
    epilog="\b\nExamples:\n  emcl-rerank demo\n  emcl-rerank demo --json\n  "
    "emcl-rerank demo --save demo",
)
@json_option
@option(
    "--save FOLDER",
    "Also save text.npy, video.npy and their banks here, to try the commands on files.",
    click.Path(path_type=Path, file_okay=False),
)
def demo(as_json: bool, save: Path | None) -> None:
    """Re-score real embeddings that ship with the package and show the gain.

    The two sides are the English and the Spanish names of the same emoji, the simplest two
    modalities with a known answer. Row i of one side matches row i of the other.
    """
    from emcl_plugin.cli.show import summary
    from emcl_plugin.data.demo import load_demo, run_demo, save_demo
    from emcl_plugin.evaluation.metrics import MEASURES
    from emcl_plugin.report.tables import metrics_table

    data = load_demo()
    if save is not None:
        save_demo(data, save)
    report, rows = run_demo(data)
    if as_json:
        metrics = [
            {"direction": direction, "method": method, **{m: found.metric(m) for m in MEASURES}}
            for direction, method, found in rows
        ]
        click.echo(json.dumps({"metrics": metrics, "report": report.to_dict()}, indent=2))
        return
    click.echo("English and Spanish names of the same emoji, as texts and as 'videos':")
    click.echo(summary(report))
    click.echo()
    click.echo(metrics_table(rows))
    if save is not None:
        text, video = (escaped(shlex.quote(f"{save}/{name}.npy")) for name in ("text", "video"))
        click.echo(f"\nNow try: emcl-rerank --text {text} --video {video}")
