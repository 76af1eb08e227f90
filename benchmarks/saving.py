"""What saving a run costs, and going on with it: percent of the training at two intervals, seconds until a new step.

    python -m benchmarks.saving [--turns 3] [--case WORD] [OVERRIDE ...]

A real command trains until it has saved some times, a save every few steps, and is killed; `resume` goes on until its
first new step. A save's seconds are those in which no step runs: writing, flushing to the disk, the checksum, and
giving it its names. A step's are those of the median step, without them. Overrides go to all runs (default:
trainer=cpu). To be run alone on the machine; what disturbed it is told. The disk is that of TMPDIR.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from alexnet_exp.config.schema import Checkpoint, Interval, Unit
from alexnet_exp.config.user_class import ALLOW_VARIABLE
from benchmarks.machine import Watch, adopt_orphans, bury, machine
from benchmarks.processes import Command, wait_until
from benchmarks.processor import RESULTS, this_processor

LONG = 900.0  # seconds after which a command that has not come so far hangs
STEPS = 100  # the interval in steps whose cost is told
RANDOM = ("data=random", "data.val=none", "objective=train/loss", "test.run=false", "schedule=constant")


@dataclass(frozen=True)
class Case:
    """A network, after how many steps it is saved while it is measured, and after how many saves it is killed."""

    name: str
    overrides: tuple[str, ...]
    every: int
    saves: int


CASES = (
    Case(
        "the tutorial's network, Adam, batch 32",
        (
            "model=tutorial",
            "optim=adam",
            *RANDOM,
            "data.batch_size=32",
            "data.size=32",
            "data.classes=10",
            "data.n=12800",
        ),
        every=20,
        saves=5,
    ),
    Case(
        "the paper's network, 61 million parameters, momentum, batch 128",
        ("model=paper", "optim=krizhevsky", *RANDOM, "data.batch_size=128", "data.n=2560"),
        every=1,
        saves=4,
    ),
)


@dataclass(frozen=True)
class Line:
    """One line of the stopwatch's."""

    what: str
    at: float
    step: int
    saving: float


@dataclass(frozen=True)
class Figures:
    """Seconds, of one turn. first_*: until the first step has ended, of a new run and of one that goes on.

    fit: from where fit begins; whole: from the start of the command.
    """

    step: float
    save: float
    bytes: int
    first_fit: float
    first_whole: float
    resumed_fit: float
    resumed_whole: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["trainer=cpu"], metavar="OVERRIDE")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--case", default="", metavar="WORD", help="only the networks whose name has it")
    parser.add_argument("--out", type=Path, metavar="JSON", help="default: saving.json of this processor")
    given = parser.parse_args(arguments)
    adopt_orphans()
    found: dict[str, Any] = {"machine": machine(), "overrides": given.overrides, "cases": []}
    for case in (case for case in CASES if given.case in case.name):
        watch, folder = Watch(), Path(tempfile.mkdtemp(prefix="saving-"))
        turns = [measure(case, given.overrides, folder / str(turn)) for turn in range(given.turns)]
        shutil.rmtree(folder)
        bury()
        load = watch.load()
        told = {"case": case.name, **summary(turns), "turns": [asdict(turn) for turn in turns]}
        found["cases"].append({**told, "load": load.to_json(), "busy": load.busy})
    file = given.out or this_processor().save(RESULTS) / "saving.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found["cases"]))


def measure(case: Case, overrides: Sequence[str], folder: Path) -> Figures:
    """One turn in `folder`, which it makes. Raises RuntimeError where a command ends before it was measured."""
    folder.mkdir(parents=True)
    run, notes = folder / "run", folder / "stopwatch.jsonl"
    callback = "+callbacks.stopwatch._target_=benchmarks.stopwatch.Stopwatch", f"+callbacks.stopwatch.file={notes}"
    words = [*case.overrides, *overrides, *callback, f"checkpoint.every={case.every} steps", f"hydra.run.dir={run}"]
    # the save that is behind the last of these steps is only told by the step that follows
    new_started, new = _until(words, case.every * case.saves + 1, folder, notes)
    size = (run / "checkpoints" / "last.ckpt").stat().st_size
    again_started, again = _until(["resume", str(run)], 1, folder, notes)
    assert again[1].step > case.every, "it did not go on, but started over"
    intervals = list(pairwise(new[1:]))  # the first is from the start of fit to the first step
    return Figures(
        step=statistics.median(after.at - before.at - (after.saving - before.saving) for before, after in intervals),
        save=new[-1].saving / case.saves,
        bytes=size,
        first_fit=new[1].at - new[0].at,
        first_whole=new[1].at - new_started,
        resumed_fit=again[1].at - again[0].at,
        resumed_whole=again[1].at - again_started,
    )


def _until(words: Sequence[str], steps: int, folder: Path, notes: Path) -> tuple[float, list[Line]]:
    """Runs a command until it has made so many steps, and kills it; when it was started, and what was noted."""
    notes.unlink(missing_ok=True)
    command = Command.start(words, folder, folder / "told.txt", {ALLOW_VARIABLE: "benchmarks"}, threads=None)
    wait_until(lambda: not command.running() or len(_lines(notes)) > steps, LONG)
    found = _lines(notes)
    command.kill()
    command.left()
    if len(found) <= steps:
        raise RuntimeError(f"{' '.join(words)}\n{(folder / 'told.txt').read_text()}")
    return command.started, found[: steps + 1]


def _lines(notes: Path) -> list[Line]:
    """The first tells where fit began, each further one of a step; a line that is being written is left out."""
    text = notes.read_text(encoding="utf-8") if notes.exists() else ""
    return [Line(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def summary(turns: Sequence[Figures]) -> dict[str, float]:
    """Medians over the turns, and what follows from them."""
    found = {key: statistics.median(asdict(turn)[key] for turn in turns) for key in asdict(turns[0])}
    seconds = default_interval()
    found["percent_at_default"] = 100 * found["save"] / seconds
    found[f"percent_at_{STEPS}_steps"] = 100 * found["save"] / (STEPS * found["step"])
    return found


def default_interval() -> int:
    """Seconds between two saves where nothing is set."""
    every = Interval.read(Checkpoint().every)
    assert every is not None
    assert every.unit is Unit.seconds
    return every.count


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a network."""
    titles = ["network", "checkpoint", "a save", "a step", f"cost, every {default_interval() / 60:g} minutes"]
    titles += [f"every {STEPS} steps", "resumed: first step, from fit", "from the command", "a new run: from fit"]
    titles += ["from the command", "disturbed"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for case in cases:
        cells = [case["case"], f"{case['bytes'] / 1e6:.1f} MB", f"{case['save']:.3f} s", f"{case['step']:.3f} s"]
        cells += [f"{case['percent_at_default']:.3f} %", f"{case[f'percent_at_{STEPS}_steps']:.2f} %"]
        cells += [f"{case[key]:.2f} s" for key in ("resumed_fit", "resumed_whole", "first_fit", "first_whole")]
        lines.append("| " + " | ".join([*cells, case["busy"] or "no"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
