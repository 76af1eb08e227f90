"""`plot RUN`:

draws a run's curves, filters, predictions and nearest images as PNG. `plot schedule`: a learning rate.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alexnet_exp.cli.arguments import PROGRAM
from alexnet_exp.cli.output import report_loading
from alexnet_exp.cli.parser import Parser, output_folder, with_overrides
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import UserError, one_line, suggest_name
from alexnet_exp.inference.pictures import (
    EXAMPLES,
    PICTURES,
    SEARCHED_ARRAYS,
    SEARCHED_FILES,
    MissingPictureError,
    PlotJob,
)
from alexnet_exp.paths import outputs_folder
from alexnet_exp.runs.lookup import find
from alexnet_exp.sanitize import escape_controls

MAX_LISTED_IMAGES = 32  # one picture shows no more


def run(arguments: list[str]) -> int:
    """Writes the pictures and prints their paths."""
    if arguments[:1] == ["schedule"]:
        return _schedule(arguments[1:])
    parser = Parser(
        "plot",
        "Draws pictures of a run as PNG, or the learning-rate schedule of a configuration.",
        usage=f"{PROGRAM} plot [flags] RUN\n       {PROGRAM} plot schedule [KEY=VALUE ...] [--out FILE]",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, last, or a unique prefix of its path")
    parser.add_argument("--only", metavar="NAME,NAME", help=f"of {', '.join(PICTURES)}; default: all with data")
    parser.add_argument("--out", metavar="FOLDER", help="default: plots/ in the run folder")
    parser.add_argument("--ckpt", default="best", metavar="best|last|FILE", help="checkpoint; default best")
    parser.add_argument(
        "--split", choices=("test", "val", "train"), help="of the images of predictions and neighbours; default test"
    )
    parser.add_argument(
        "--images", metavar="N,N", help=f"indices of the images, from 0; default: {EXAMPLES} drawn with --seed"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed that draws the images; default 0")
    parser.add_argument(
        "--train-images",
        type=int,
        metavar="N",
        help=f"number to search for neighbours; default: {SEARCHED_ARRAYS:,}, or {SEARCHED_FILES:,} of image files",
    )
    given = parser.parse_args(arguments)
    wanted = _pictures(given.only)
    if given.train_images is not None and given.train_images < 1:
        raise UserError(f"plot: --train-images {given.train_images}: must be at least 1")
    listed = _indices(given.images)
    path = find(given.run, outputs_folder(), trained=True)
    folder = output_folder(Path(given.out) if given.out else path / "plots")
    job = PlotJob(path, folder, given.ckpt, given.split, listed, given.seed, given.train_images)
    missing: dict[str, list[str]] = {}
    failed = []
    report_loading()
    for name in wanted:
        try:
            print(one_line(PICTURES[name](job)), flush=True)
        except MissingPictureError as why:
            missing.setdefault(str(why), []).append(name)
        except UserError as error:
            failed.append(str(error))
    if missing and not failed and not given.only and sum(map(len, missing.values())) == len(wanted):
        raise UserError(f"plot: {path} has nothing to draw yet; no epoch is complete")
    lines = [f"plot: {path}: no {' and '.join(names)}: {why}" for why, names in missing.items()]
    if failed or (lines and given.only):
        raise UserError("\n".join(dict.fromkeys([*failed, *lines])))
    for line in lines:
        print(escape_controls(line), file=sys.stderr)
    return 0


def _pictures(only: str | None) -> list[str]:
    names = list(PICTURES) if only is None else only.split(",")
    for name in names:
        if name not in PICTURES:
            raise UserError(f"plot: --only {name}: no such picture; {suggest_name(name, PICTURES)}")
    return names


def _indices(images: str | None) -> list[int] | None:
    if images is None:
        return None
    try:
        listed = [int(word) for word in images.split(",")]
    except ValueError:
        raise UserError(f"plot: --images {images}: must be integers, such as 3,17,20") from None
    if len(listed) > MAX_LISTED_IMAGES:
        raise UserError(
            f"plot: --images: {len(listed)} images do not fit in one picture; give at most {MAX_LISTED_IMAGES}"
        )
    return listed


def _schedule(arguments: list[str]) -> int:
    parser = with_overrides("plot schedule", "Draws the learning-rate schedule of a configuration.")
    parser.add_argument("--out", metavar="FILE", default="schedule.png")
    given = parser.parse_args(arguments)

    from alexnet_exp.config.compose import compose
    from alexnet_exp.optim.schedule_spec import Plateau, Schedule
    from alexnet_exp.optim.schedules import curve
    from alexnet_exp.plots.curves import schedule

    config = validate(compose(given.overrides, given.config_dir))
    if isinstance(config.schedule, Plateau):
        raise UserError("plot schedule: plateau depends on the validation metric, so it cannot be drawn before the run")
    if not isinstance(config.schedule, Schedule):
        raise UserError("plot schedule: draws only the shipped schedules, not your own classes")
    epochs = config.trainer.max_epochs
    if epochs is None:
        raise UserError("plot schedule: needs the length in epochs; add trainer.max_epochs=10")
    steps = 100  # per epoch; any number does, because a schedule is a function of the completed fraction of the run
    base = config.optim.arguments.get("lr", 1.0) if isinstance(config.optim, UserClass) else config.optim.lr
    rates = [base * factor for factor in curve(config.schedule, epochs, steps)]
    schedule(rates, Path(given.out), steps_per_epoch=steps)
    print(one_line(given.out))
    return 0
