"""Sentences of the report page: headline, prior, warnings, and the table of what was done."""

from __future__ import annotations

from emcl_plugin.errors import one_line
from emcl_plugin.evaluation.ablation import Ablation
from emcl_plugin.evaluation.significance import Comparison


def headline(ablation: Ablation, gains: dict[str, Comparison]) -> str:
    """Return the change of R@1, its significance and the protocol, as one sentence."""
    report, parts = ablation.report, []
    before, after = ablation.rows[0].evaluation, ablation.rows[-1].evaluation
    for (direction, old), (_, new) in zip(before.directions, after.directions, strict=True):
        a, b, gain = old.metric("R@1"), new.metric("R@1"), gains[direction]
        words = direction.replace("->", "to")
        if not report.guard.applied:
            parts.append(f"{a:.1f} % {words}")
        elif gain.gain == 0:
            parts.append(f"{words} stayed at {a:.1f} % ({_test(gain)})")
        else:
            verb = "rose" if gain.gain > 0 else "fell"
            parts.append(f"{words} {verb} from {a:.1f} % to {b:.1f} % ({_test(gain)})")
    if not report.guard.applied:
        return f"Nothing was changed ({report.guard.reason}). R@1 is {parts[0]} and {parts[1]}."
    protocol = report.protocol
    if protocol == "transductive":
        what = "correction was" if report.biases is None else "biases were"
        protocol += f" (the {what} computed from all texts of this run)"
    elif protocol == "bank":
        sides = " and ".join(d.partition(" ")[0] + "s" for d in report.banks)
        protocol += f" (the correction was learned from other {sides})"
    return f"R@1 {parts[0]}. R@1 {parts[1]}. Protocol: {protocol}."


def assumed(ablation: Ablation) -> str:
    """Return what was assumed about the queries, and why."""
    prior, guard = ablation.report.prior, ablation.report.guard
    if prior is None:
        return ""
    text = (
        "NCL assumes that every video is requested equally often; this assumption was applied "
        f"at {100 * prior.even:.0f} % (prior: {prior.mode}). Reason: {prior.reason}."
    )
    if guard.strength < 1:
        text += f" Guard: {guard.reason}."
    return text


def _test(gain: Comparison) -> str:
    if gain.changed == 0:
        return "no query changed"
    p = "p < 0.001" if gain.p_value < 0.001 else f"p = {gain.p_value:.3f}"
    verdict = "significant" if gain.significant else "not significant"
    interval = f"95 % interval {gain.low:+.1f} to {gain.high:+.1f}"
    return f"{gain.gain:+.1f} points; {interval}; {verdict}, {p}"


def warnings(gains: dict[str, Comparison]) -> list[str]:
    """Return a sentence for each direction with too few queries for its gain."""
    return [
        f"Too few queries, {direction.replace('->', 'to')}: with {gain.queries} queries, only "
        f"differences in R@1 of about {gain.detectable:.1f} points or more can be distinguished "
        f"from chance. This one is {abs(gain.gain):.1f}."
        for direction, gain in gains.items()
        if gain.too_small
    ]


def choices(ablation: Ablation) -> list[tuple[str, str]]:
    """Return (name, value) of everything that the correction chose."""
    report = ablation.report
    facts = [
        ("texts", f"{report.shape[0]:,}"),
        ("videos", f"{report.shape[1]:,}"),
        ("protocol", report.protocol),
        ("standard deviation of the scores", f"{report.score_std:.6g}"),
    ]
    if (emcl := report.emcl) is not None:
        facts += [
            ("EMCL strength", f"{emcl.strength:g}: {emcl.reason}"),
            ("distinct subspaces found by EM", f"{emcl.effective_rank:.4g}"),
        ]
    if (b := report.biases) is not None:
        state = "converged" if b.converged else "not converged"
        facts += [
            ("NCL temperature", f"{b.temperature:.6g}"),
            ("NCL iterations", f"{b.iterations} ({state}, error {b.error:.2g}, solver {b.solver})"),
        ]
    if (p := report.prior) is not None:
        facts += [
            ("prior", f"{p.mode}, equal shares at {100 * p.even:.0f} %: {p.reason}"),
            ("texts, near-duplicates merged", f"{p.queries:,.0f}"),
        ]
    if not report.banks:
        facts.append(("guard", report.guard.reason))
    for direction, found in report.banks.items():
        facts += [(f"{direction}: {name}", value) for name, value in found.facts()]
    if report.repeated_texts or report.repeated_videos:
        copies = f"{report.repeated_texts} texts, {report.repeated_videos} videos"
        facts.append(("exact duplicates", copies))
    return [(name, one_line(value, None)) for name, value in facts]
