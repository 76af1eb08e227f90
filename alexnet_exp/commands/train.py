"""`python -m alexnet_exp [train] [overrides]`: one experiment, or with -m a sweep."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from alexnet_exp.config import check_config_dir, compose, composed_jobs, each_job, plain, with_hydra
from alexnet_exp.runs.accuracy import margin
from alexnet_exp.runs.contents import read_result
from alexnet_exp.schema import Config
from alexnet_exp.settings import UserError

# Lines of the table at the end: the metric's key, and how it is called there.
SHOWN = {
    "test/top1": "test top-1",
    "test/top5": "test top-5",
    "test/loss": "test loss",
    "val/top1": "val top-1",
    "val/loss": "val loss",
}


def run(arguments: list[str]) -> int:
    """Validates every job, then hands the command line to Hydra; the worst job's exit code comes back."""
    flags = _flags(arguments)
    check_config_dir(flags.config_dir)
    if flags.cfg:
        compose(flags.overrides, flags.config_dir)
    elif not (flags.info or flags.hydra_help or flags.shell_completion):
        configs = composed_jobs(each_job(flags.overrides) if flags.multirun else [flags.overrides], flags.config_dir)
        _check_devices(configs)
    ended: list[tuple[Path, int]] = []
    with_hydra(arguments, lambda config: ended.append(_one(config)))
    if not ended or int(os.environ.get("RANK", "0")) > 0:
        return max((code for _, code in ended), default=0)
    if flags.multirun or len(ended) > 1:
        print(json.dumps({"runs": [_machine_line(path) for path, _ in ended]}))
    else:
        _tell(*ended[0])
    return max(code for _, code in ended)


def _flags(arguments: list[str]) -> argparse.Namespace:
    """Hydra's own flags, refused in one line where they are wrong or would go round the validation."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.experimental_rerun:
        raise UserError(
            "--experimental-rerun: would unpickle a file of the run folder, which could run code; type the overrides"
        )
    for name in ("config_path", "config_name"):
        if getattr(flags, name):
            raise UserError(
                f"--{name.replace('_', '-')}: write an experiment of your own: --config-dir FOLDER experiment=NAME"
            )
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve: goes with --cfg job")
    return flags


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; python -m alexnet_exp --help tells what it takes")


def _check_devices(configs: list[Config]) -> None:
    """Refuses what asks for devices that are not there, before any run's folder is made."""
    from alexnet_exp.devices import chosen

    lines = dict[str, None]()
    for config in configs:
        try:
            chosen(config.trainer)
        except UserError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    if lines:
        raise UserError("\n".join(lines))


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
    line: dict[str, Any] = {"run": str(_short(path)), "status": result["status"], "metrics": result.get("metrics", {})}
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
    Console().print(table)
    if code == 0:  # not by rich, which would fold the lines that are to be copied
        print("Type next:", *(f"  {line}" for line in _next(result)), sep="\n")


def _margin(result: dict[str, Any], key: str) -> str:
    images = result.get("test_images")
    return f"  ({margin(result['metrics'][key], images)})" if key == "test/top1" and images else ""


def _next(result: dict[str, Any]) -> list[str]:
    other = "lrn" if result["config"].get("model.norm") == "bn" else "bn"
    return [
        "python -m alexnet_exp plot last    # its curves, confusion matrix and filters",
        "python -m alexnet_exp eval last    # the same test again: the same number",
        f"python -m alexnet_exp model={other:<6} # another network on the same data",
    ]
