"""What an ablation found, in the sentences that the page tells it in."""

from __future__ import annotations

from emcl_plugin.errors import one_line
from emcl_plugin.evaluation.ablation import Ablation
from emcl_plugin.evaluation.significance import Comparison


def headline(ablation: Ablation, gains: dict[str, Comparison]) -> str:
    """What became of R@1, whether that is significant, and by which protocol."""
    parts = []
    before, after = ablation.rows[0].evaluation, ablation.rows[-1].evaluation
    pairs = zip(before.directions, after.directions, strict=True)
    for (direction, old), (_, new) in pairs:
        a, b, gain = old.metric("R@1"), new.metric("R@1"), gains[direction]
        words = direction.replace("->", "to")
        if not ablation.report.guard.applied:
            parts.append(f"{a:.1f} {words}")
        elif gain.gain == 0:
            parts.append(f"{words} stayed at {a:.1f} ({_test(gain)})")
        else:
            verb = "rose" if gain.gain > 0 else "fell"
            parts.append(f"{words} {verb} from {a:.1f} to {b:.1f} ({_test(gain)})")
    if not ablation.report.guard.applied:
        return (
            f"The input was left as it was ({ablation.report.guard.reason}); "
            f"R@1 is {parts[0]} and {parts[1]}."
        )
    what = "correction was" if ablation.report.biases is None else "biases were"
    how = ablation.report.protocol
    if how == "transductive":
        how = f"transductive: the {what} computed from all the texts at once"
    elif how == "bank":
        sides = " and ".join(d.partition(" ")[0] + "s" for d in ablation.report.banks)
        how = f"bank: the correction was learnt from other {sides}"
    return f"R@1 {parts[0]}, and {parts[1]} ({how})."


def assumed(ablation: Ablation) -> str:
    """What was assumed about the queries, and why."""
    prior, guard = ablation.report.prior, ablation.report.guard
    if prior is None:
        return ""
    text = (
        f"How often each video is asked for was taken as {100 * prior.even:.0f} % even "
        f"(prior: {prior.mode}): {prior.reason}."
    )
    if guard.strength < 1:
        text += f" The biases were applied {guard.reason}."
    return text


def _test(gain: Comparison) -> str:
    if gain.changed == 0:
        return "no query changed"
    p = "p < 0.001" if gain.p_value < 0.001 else f"p = {gain.p_value:.3f}"
    verdict = "significant" if gain.significant else "not significant"
    interval = f"95 % interval {gain.low:+.1f} to {gain.high:+.1f}"
    return f"{gain.gain:+.1f}; {interval}; {verdict}, {p}"


def warnings(gains: dict[str, Comparison]) -> list[str]:
    """What the numbers cannot tell: for each direction, gains too small for its queries."""
    return [
        f"Too small to tell, {direction.replace('->', 'to')}: with {gain.queries} queries a "
        f"difference in R@1 must be about {gain.detectable:.1f} points to tell it from chance; "
        f"this one is {abs(gain.gain):.1f}."
        for direction, gain in gains.items()
        if gain.too_small
    ]


def choices(ablation: Ablation) -> list[tuple[str, str]]:
    """What the correction chose."""
    report = ablation.report
    facts = [
        ("texts", f"{report.shape[0]:,}"),
        ("videos", f"{report.shape[1]:,}"),
        ("protocol", report.protocol),
        ("standard deviation of the scores", f"{report.score_std:.6g}"),
    ]
    if report.emcl is not None:
        facts += [
            ("EMCL strength", f"{report.emcl.strength:g} ({report.emcl.reason})"),
            ("distinct subspaces that EM found", f"{report.emcl.effective_rank:.4g}"),
        ]
    if report.biases is not None:
        b = report.biases
        state = "converged" if b.converged else "not converged"
        facts += [
            ("NCL temperature", f"{b.temperature:.6g}"),
            ("NCL rounds", f"{b.rounds} ({state}, error {b.error:.2g}, solver {b.solver})"),
        ]
    if report.prior is not None:
        p = report.prior
        facts += [
            ("prior", f"{p.mode}, {100 * p.even:.0f} % even: {p.reason}"),
            ("different texts, near-equal ones counted once", f"{p.queries:,.0f}"),
        ]
    if not report.banks:
        facts.append(("guard", report.guard.reason))
    for direction, found in report.banks.items():
        facts += [(f"{direction}: {name}", value) for name, value in found.facts()]
    if any((report.repeated_texts, report.repeated_videos)):
        copies = f"{report.repeated_texts} texts, {report.repeated_videos} videos"
        facts.append(("exact copies", copies))
    return [(name, one_line(value, None)) for name, value in facts]
