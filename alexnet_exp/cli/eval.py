"""`eval RUN`: evaluates a run's checkpoint on its data with the code of its test, to the last digit.

`eval RUN RUN ...`: also evaluates the average of their probabilities.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.cli.output import report_loading
from alexnet_exp.cli.parser import Parser
from alexnet_exp.config.schema import VIEWS, Config
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import UserError, one_line
from alexnet_exp.paths import outputs_folder
from alexnet_exp.processes.ranks import rank
from alexnet_exp.runs.lookup import checkpoint_path, find, runs_under
from alexnet_exp.runs.reader import is_run, read_result, state
from alexnet_exp.runs.start import config_of
from alexnet_exp.runs.status import Status
from alexnet_exp.sanitize import escape_controls

if TYPE_CHECKING:
    from alexnet_exp.training.evaluate import Ensemble, Evaluation

METRICS = ("top1", "top5", "loss")


@dataclass(frozen=True)
class EvalRun:
    """A run to evaluate. file: the checkpoint. views: per image."""

    path: Path
    config: Config
    file: Path
    views: int


def run(arguments: list[str]) -> int:
    """Prints the metrics of each run and of all together: a table on a terminal, else one line of JSON."""
    parser = Parser("eval", "Evaluates the checkpoint of runs on their data; several runs also as an ensemble.")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder, last, or a unique prefix of its path; for several, or a "
        "sweep's folder, also the average of their probabilities",
    )  # fmt: skip
    parser.add_argument("--split", default="test", choices=("test", "val", "train"))
    parser.add_argument("--views", type=int, choices=VIEWS, help="crops per image; default: as in the run's test")
    parser.add_argument("--ckpt", default=None, metavar="best|last|FILE", help="default: the one that the run tested")
    parser.add_argument("--save", metavar="FILE.npz", help="saves the predictions; of several runs their average")
    parser.add_argument(
        "--gpus", type=int, default=None, help="as trainer.gpus; default: one device (fastest available)"
    )
    given = parser.parse_args(arguments)
    runs = _runs(given)
    if len(runs) > 1 and given.ckpt not in (None, "best", "last"):
        raise UserError(f"eval: --ckpt {given.ckpt}: names one checkpoint for {len(runs)} runs; write best or last")
    save = _save_path(given.save)

    report_loading()
    from alexnet_exp import logs
    from alexnet_exp.training.evaluate import Ensemble

    logs.configure(None)
    together, several = Ensemble(), len(runs) > 1
    found = []
    for one in runs:
        evaluation = _evaluate(one, given, together, several)
        found.append((one, evaluation))
        if evaluation.predictions is not None:
            together.add(evaluation.predictions)
    if rank() != 0:
        return 0
    if together.runs < len(runs) and (save is not None or several):
        raise UserError("eval: your own test_step must return logits, otherwise there is nothing to average or save")
    if save is not None:
        together.predictions.save(save)
    _print_metrics(found, together, given.split)
    return 0


def _runs(given: Namespace) -> list[EvalRun]:
    """Returns the runs to evaluate. A named run must have a checkpoint; of a folder, runs without one are skipped."""
    paths = _paths(given.runs)
    alone = [path for path, named in paths.items() if named]
    runs = []
    for path in paths:
        try:
            runs.append(_given(path, given))
        except UserError as error:
            if path in alone or not _is_unfinished(path):
                raise
            print(escape_controls(f"skipped: {error}"), file=sys.stderr)
    if not runs:
        raise UserError(f"eval: {' '.join(given.runs)}: no run has a checkpoint to evaluate")
    return runs


def _is_unfinished(path: Path) -> bool:
    return state(path) in (Status.FAILED, Status.DIED, Status.INTERRUPTED, Status.RUNNING)


def _paths(texts: Sequence[str]) -> dict[Path, bool]:
    """Returns the folders of the runs, of another folder all runs in it, each with whether it was named itself."""
    paths: dict[Path, bool] = {}
    seen: set[Path] = set()
    for text in texts:
        inside = [] if is_run(Path(text)) or not Path(text).is_dir() else runs_under(Path(text))
        for path in inside or [find(text, outputs_folder(), trained=True)]:
            if path.resolve() in seen:
                raise UserError(f"eval: {path} is given twice; give different runs")
            seen.add(path.resolve())
            paths[path] = not inside
    return paths


def _given(path: Path, given: Namespace) -> EvalRun:
    """Returns what to evaluate of the run in `path`. Raises UserError before any run is evaluated."""
    from alexnet_exp.training.datamodule import ImageData

    config = validate(config_of(path))
    own = isinstance(config.data, UserClass) and not issubclass(config.data.cls, ImageData)
    if own and given.split != "test":
        raise UserError(
            f"eval: --split {given.split} needs a data module that subclasses ImageData; {config.data.target} does not"
        )
    tested = read_result(path).get("tested") or config.test.checkpoint.value
    file = checkpoint_path(path, given.ckpt or tested)
    views = given.views or (config.test.views if given.split == "test" else 1)
    return EvalRun(path, config, file, views)


def _save_path(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if path.suffix != ".npz":
        raise UserError(f"eval: --save {text}: must end in .npz")
    if not path.parent.is_dir():
        raise UserError(f"eval: --save {text}: the folder {path.parent} does not exist")
    return path


def _evaluate(one: EvalRun, given: Namespace, together: Ensemble, several: bool) -> Evaluation:
    from alexnet_exp.config.schema import Trainer
    from alexnet_exp.inference.classifier import rebuilt
    from alexnet_exp.processes.memory import keep_freed_memory
    from alexnet_exp.training.build import lay_out, open_data, refuse_other_images, refuse_views
    from alexnet_exp.training.checkpoints.format import CARD, WEIGHTS, read_checkpoint, refuse_another_network
    from alexnet_exp.training.datamodule import ImageData
    from alexnet_exp.training.devices import place, select_devices
    from alexnet_exp.training.evaluate import evaluate

    config, path = one.config, one.path
    content = read_checkpoint(one.file)
    experiment = rebuilt(config)
    refuse_another_network(one.file, content[CARD]["model"], experiment.card["model"], path)
    experiment.module.load_state_dict(content[WEIGHTS])
    open_data(experiment.data)
    refuse_other_images(experiment, content[CARD], path)
    split = None
    if isinstance(experiment.data, ImageData):
        split = getattr(experiment.data.source, given.split)
        if split is None:
            raise UserError(f"eval: the data of {path} has no {given.split} images")
    refuse_views(experiment, one.views, "eval: --views ")
    if several:
        together.check_images(path, experiment.card["classes"], split)
    # the settings that the run computed with, so that the number is the same
    result = read_result(path)
    precision, last = result.get("precision", "auto"), result.get("channels_last", config.trainer.channels_last)
    if precision.startswith("16") and select_devices(Trainer(gpus=given.gpus))[0] == "cpu":
        precision = "auto"  # a run in float16 on a GPU is evaluated in float32 on a CPU
    settings = Trainer(gpus=given.gpus, precision=precision, channels_last=bool(last))
    placement = place(settings, experiment.multiply_adds)
    if placement.accelerator == "cpu":
        keep_freed_memory()
    lay_out(experiment, placement.channels_last)
    return evaluate(experiment, placement, given.split, one.views, keep=several or given.save is not None)


def _print_metrics(found: Sequence[tuple[EvalRun, Evaluation]], together: Ensemble, split: str) -> None:
    several = len(found) > 1
    if sys.stdout.isatty():
        _table(found, together.metrics(split) if several else {}, split)
        return
    lines = [_machine_line(one, evaluation) for one, evaluation in found]
    print(json.dumps({"runs": lines, "together": {"metrics": together.metrics(split)}} if several else lines[0]))


def _machine_line(one: EvalRun, evaluation: Evaluation) -> dict[str, Any]:
    line = {"run": str(one.path), "checkpoint": one.file.stem, "metrics": evaluation.metrics}
    return line | ({"views": one.views, "centre": evaluation.centre} if one.views > 1 else {})


def _table(found: Sequence[tuple[EvalRun, Evaluation]], together: dict[str, float], split: str) -> None:
    """Prints a row for each run and number of views, with top-1 and top-5 errors as in the paper."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = []
    for one, evaluation in found:
        if evaluation.centre:
            rows.append((str(one.path), "centre", evaluation.centre))
        rows.append((str(one.path), f"{one.views} views" if one.views > 1 else "centre", evaluation.metrics))
    if together:
        views = {one.views for one, _ in found}
        seen = f"{views.pop()} views" if len(views) == 1 and views != {1} else "centre" if views == {1} else "mixed"
        rows.append((f"{len(found)} runs together", seen, together))
    if any(f"{split}/top1" not in metrics for *_, metrics in rows):  # a user's LightningModule has its own metric names
        for *_, metrics in rows:
            print(*(f"{one_line(key):<12}{value:.4f}" for key, value in metrics.items()), sep="\n")
        return
    table = Table(title=f"{split} images", title_justify="left")
    table.add_column("run", overflow="fold")
    for title in ("views", *METRICS, "top-1 error", "top-5 error"):
        table.add_column(title, justify="left" if title == "views" else "right", no_wrap=True)
    for name, views_text, metrics in rows:
        values = [metrics[f"{split}/{key}"] for key in METRICS]
        errors = [f"{100 * (1 - value):.2f}%" for value in values[:2]]
        table.add_row(Text(one_line(name)), views_text, *(f"{value:.4f}" for value in values), *errors)
    Console().print(table)
