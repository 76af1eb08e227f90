"""Names the bottleneck of a training step in one line, with the setting to change. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Shares of a step above which a part is named as the bottleneck. Framework: what is not network, optimizer or data.
DATA_WAIT_SHARE, FRAMEWORK_SHARE, OPTIMIZER_SHARE = 0.1, 0.15, 0.2
KIND_PHRASES = {
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
    """Returns the line for one measurement.

    workers: `data.workers`; None if the images are in memory. own: the user's data module loads the images.
    """
    shares = {part["name"]: part["share"] for part in found["parts"]}
    waits, framework, optimizer = (shares.get(name, 0.0) for name in ("data wait", "framework", "optimizer"))
    if waits > DATA_WAIT_SHARE:
        if own:
            return f"waits for data {waits:.0%} of the time; try more num_workers in the DataLoader of your data module"
        if workers is None:
            return f"waits for data {waits:.0%} of the time although they are in memory; try a larger data.batch_size"
        more = "all cores decode already" if workers == "null" else f"or more data.workers than {workers}, or null"
        return f"waits for data {waits:.0%} of the time; try data.decode=once, or a smaller data.size; {more}"
    if framework > FRAMEWORK_SHARE:
        return f"the framework takes {framework:.0%} because the steps are short; try a larger data.batch_size"
    if optimizer > OPTIMIZER_SHARE:
        return f"the optimizer takes {optimizer:.0%}; try a larger data.batch_size"
    kinds = _kinds(found["layers"])
    ceiling = found["ceiling_gflops"]
    if not kinds:
        return f"computation: {found['mfu']:.0%} of the peak in total" if found["mfu"] is not None else "computation"
    kind, (share, gflop, ms) = max(kinds.items(), key=lambda item: item[1][0])
    rate = f", at {1000 * gflop / ms / ceiling:.0%} of the peak" if gflop and ms and ceiling else ""
    return f"{KIND_PHRASES.get(kind, f'{kind} takes')} {share:.0%} of the step{rate}"


def _kinds(layers: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Returns share of the step, GFLOP and milliseconds of all layers of each kind."""
    sums: dict[str, tuple[float, float, float]] = {}
    for row in layers:
        share, gflop, ms = sums.get(row["kind"], (0.0, 0.0, 0.0))
        both = row["forward_ms"] + row["backward_ms"]
        sums[row["kind"]] = share + row["share"], gflop + (row["gflop"] or 0.0), ms + both
    return sums
