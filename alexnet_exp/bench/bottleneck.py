"""What holds a step up, in one plain line, with the knob where there is one. The thresholds are here. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WAITS = 0.1  # of the step that waits for data
FRAMEWORK = 0.15  # of it that is neither of the network, its gradients, the optimizer nor data
OPTIMIZER = 0.2
# Kinds of layers, and how a line calls all of them together.
CALLED = {
    "conv": "convolutions take",
    "fc": "fully connected layers take",
    "local": "locally connected layers take",
    "lrn": "local response norm takes",
    "mapnorm": "within-map norm takes",
    "bn": "batch norm takes",
    "pool": "max pooling takes",
    "avg": "average pooling takes",
    "drop": "dropout takes",
    "relu": "ReLU takes",
}


def bound(found: Mapping[str, Any], workers: str | None = None, own: bool = False) -> str:
    """The line for the result of one measurement.

    workers: `data.workers`, None where images are in memory. own: a data module of the user's loads the images.
    """
    shares = {part["name"]: part["share"] for part in found["parts"]}
    waits, framework, optimizer = (shares.get(name, 0.0) for name in ("data wait", "framework", "optimizer"))
    if waits > WAITS:
        if own:
            return f"waits for data {waits:.0%} of the time: more num_workers in the data module's DataLoader"
        if workers is None:
            return f"waits for data {waits:.0%} of the time, although they are in memory: a larger data.batch_size"
        more = "every core decodes already" if workers == "null" else f"more data.workers than {workers}, or null"
        return f"waits for data {waits:.0%} of the time: data.decode=once, or a smaller data.size; {more}"
    if framework > FRAMEWORK:
        return f"{framework:.0%} of a step is the framework's: its steps are short; a larger data.batch_size"
    if optimizer > OPTIMIZER:
        return f"the optimizer takes {optimizer:.0%}: a larger data.batch_size has fewer of its steps"
    kinds = _kinds(found["layers"])
    ceiling = found["ceiling_gflops"]
    if not kinds:
        return f"computes: {found['mfu']:.0%} of the ceiling in all" if found["mfu"] is not None else "computes"
    kind, (share, gflop, ms) = max(kinds.items(), key=lambda item: item[1][0])
    rate = f", at {1000 * gflop / ms / ceiling:.0%} of the ceiling" if gflop and ms and ceiling else ""
    return f"{CALLED.get(kind, f'{kind} takes')} {share:.0%} of the step{rate}"


def _kinds(layers: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Share of the step, GFLOP and milliseconds of all layers of a kind."""
    sums: dict[str, tuple[float, float, float]] = {}
    for row in layers:
        share, gflop, ms = sums.get(row["kind"], (0.0, 0.0, 0.0))
        both = row["forward_ms"] + row["backward_ms"]
        sums[row["kind"]] = share + row["share"], gflop + (row["gflop"] or 0.0), ms + both
    return sums
