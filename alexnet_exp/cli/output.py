"""Prints the result of a run on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alexnet_exp.errors import one_line
from alexnet_exp.runs.reader import read_result
from alexnet_exp.runs.wilson import margin

# Rows of the table: the metric's key and its label.
SHOWN_METRICS = {
    "test/top1": "test top-1",
    "test/top5": "test top-5",
    "test/loss": "test loss",
    "val/top1": "val top-1",
    "val/loss": "val loss",
}


def report_loading() -> None:
    """Prints on a terminal what the next seconds are for; to be called before torch is imported."""
    if sys.stderr.isatty():
        print("loading PyTorch and Lightning", file=sys.stderr, flush=True)


def run_as_json(path: Path) -> dict[str, Any]:
    """Returns the run's path, status and metrics, as the JSON line of a run or of a sweep has them."""
    result = read_result(path) if (path / "result.json").exists() else {"status": "failed"}
    line: dict[str, Any] = {"run": str(_short(path)), "status": result["status"], "metrics": result.get("metrics", {})}
    return line | ({"error": result["error"]} if "error" in result else {})


def _short(path: Path) -> Path:
    """The path as a person at this prompt would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_result(path: Path, code: int) -> None:
    """Prints a run's result on stdout: on a terminal a table and the next commands, elsewhere one line of JSON."""
    if not (path / "result.json").exists():
        return
    if not sys.stdout.isatty():
        print(json.dumps(run_as_json(path)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    result = read_result(path)
    metrics = result.get("metrics") or {}
    table = Table(
        title=Text(one_line(f"{result['name']}: {result['status']}")), title_justify="left", show_header=False
    )
    for key, title in SHOWN_METRICS.items():
        if key in metrics:
            table.add_row(title, f"{metrics[key]:.4f}{_margin(result, key)}")
    if result.get("images_per_s"):
        table.add_row("training", f"{result['seconds']:.1f} s, {result['images_per_s']:,.0f} images/s")
    if result.get("parameters"):
        table.add_row("network", f"{result['parameters']:,} parameters")
    table.add_row("run", Text(one_line(_short(path))))
    Console().print(table)
    if code == 0:  # not by rich, which would fold the lines that are to be copied
        print("Next steps:", *(f"  {line}" for line in _next(result)), sep="\n")


def _margin(result: dict[str, Any], key: str) -> str:
    images = result.get("test_images")
    return f"  {margin(result['metrics'][key], images)}" if key == "test/top1" and images else ""


def _next(result: dict[str, Any]) -> list[str]:
    other = "lrn" if result["config"].get("model.norm") == "bn" else "bn"
    return [
        "python -m alexnet_exp plot last    # its pictures: curves, filters, predictions, nearest images",
        "python -m alexnet_exp eval last    # the same test again: the same number",
        f"python -m alexnet_exp model={other:<6} # another network on the same data",
    ]
