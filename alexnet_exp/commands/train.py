"""`python -m alexnet_exp [train] [overrides]`: one experiment, or with -m a sweep."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alexnet_exp.config import VERSION_BASE, check_config_dir, composed, each_job, plain, register
from alexnet_exp.paths import conf_dir
from alexnet_exp.runs.read import read_result
from alexnet_exp.settings import UserError

# Lines of the table at the end: the metric's key, and how it is called there.
SHOWN = {"test/top1": "test top-1", "test/top5": "test top-5", "test/loss": "test loss", "val/top1": "val top-1", "val/loss": "val loss"}


def run(arguments: list[str]) -> int:
    """Validates every job, then hands the command line to Hydra; the worst job's exit code comes back."""
    from hydra._internal.utils import get_args_parser

    flags = get_args_parser().parse_args(arguments)
    only_shows = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    check_config_dir(flags.config_dir)
    if not only_shows:
        for job in each_job(flags.overrides) if flags.multirun else [flags.overrides]:
            composed(job, flags.config_dir)
    ended: list[tuple[Path, int]] = []
    _with_hydra(arguments, lambda config: ended.append(_one(config)))
    if not ended or int(os.environ.get("RANK", "0")) > 0:
        return max((code for _, code in ended), default=0)
    if flags.multirun or len(ended) > 1:
        print(json.dumps({"runs": [_machine_line(path) for path, _ in ended]}))
    else:
        _tell(*ended[0])
    return max(code for _, code in ended)


def _with_hydra(arguments: list[str], task: Callable[[DictConfig], Any]) -> None:
    import hydra

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an exception, not Hydra's own printing and exit
    sys.argv = [sys.argv[0], *arguments]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name="config")(task)()
    except Exception as error:
        from hydra.errors import HydraException

        if isinstance(error, HydraException):
            raise UserError(str(error).splitlines()[0]) from error
        raise


def _one(config: DictConfig) -> tuple[Path, int]:
    from hydra.core.hydra_config import HydraConfig

    path = Path(HydraConfig.get().runtime.output_dir)
    container = plain(config)
    saved = path / ".hydra" / "config.yaml"
    if saved.exists():  # without interpolation: it is read back by yaml.safe_load, elsewhere, later
        saved.write_text(OmegaConf.to_yaml(container), encoding="utf-8")
    from alexnet_exp.train import train

    return path, train(container, path)


def _machine_line(path: Path) -> dict[str, Any]:
    result = read_result(path) if (path / "result.json").exists() else {"status": "failed"}
    line = {"run": str(_short(path)), "status": result["status"], "metrics": result.get("metrics", {})}
    return line | ({"error": result["error"]} if "error" in result else {})


def _short(path: Path) -> Path:
    """The path as a person at this prompt would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _tell(path: Path, code: int) -> None:
    """The end of a run on stdout: a table and what to type next on a terminal, else one line of JSON."""
    if not (path / "result.json").exists():
        return
    if not sys.stdout.isatty():
        print(json.dumps(_machine_line(path)))
        return
    from rich.console import Console
    from rich.table import Table

    result = read_result(path)
    metrics = result.get("metrics") or {}
    table = Table(title=f"{result['name']}: {result['status']}", title_justify="left", show_header=False)
    for key, title in SHOWN.items():
        if key in metrics:
            table.add_row(title, f"{metrics[key]:.4f}{_margin(result, key)}")
    if result.get("images_per_s"):
        table.add_row("training", f"{result['seconds']:.1f} s, {result['images_per_s']:,.0f} images/s")
    if result.get("parameters"):
        table.add_row("network", f"{result['parameters']:,} parameters")
    table.add_row("run", str(_short(path)))
    console = Console()
    console.print(table)
    if code == 0:
        console.print("Type next:", *(f"  {line}" for line in _next(result)), sep="\n", highlight=False, markup=False)


def _margin(result: dict[str, Any], key: str) -> str:
    """How well so many test images tell an accuracy: the half width of its 95% interval, in points."""
    images, value = result.get("test_images"), result["metrics"][key]
    if key != "test/top1" or not images:
        return ""
    half = 1.96 * (max(value * (1 - value), 0.25 / images) / images) ** 0.5
    return f"  ({images:,} test images tell it to +-{100 * half:.1f} points)"


def _next(result: dict[str, Any]) -> list[str]:
    other = "lrn" if result["config"].get("model.norm") == "bn" else "bn"
    return [
        "python -m alexnet_exp plot last                 # its curves, confusion matrix and filters",
        "python -m alexnet_exp eval last                 # the same test again: the same number",
        f"python -m alexnet_exp model={other:<19} # another network on the same data",
    ]
