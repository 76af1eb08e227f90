"""Runs that are killed at random moments and gone on with, against the same runs undisturbed: what is lost.

    python -m benchmarks.kills [--kills 50] [--seed N] [--kind WORD ...]

Each run is a real `python -m alexnet_exp ...`. SIGKILL meets it at a random moment, from its first imports to its test,
also while it saves or validates: all of its processes at once, its parent alone, or of two ranks a single one. Then
`python -m alexnet_exp resume` goes on, which may be killed too, until the run is done. Its folder is held against that
of the undisturbed run: bits, rows, batches. The seed chooses whom and when; the machine's speed decides what that
meets. Where something differs, the folders are kept, and the exit code is 1. Cost: half a minute a kill on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet_exp.errors import ExitCode
from alexnet_exp.runs import checksum
from alexnet_exp.runs.reader import read_config
from alexnet_exp.runs.table import read_table
from alexnet_exp.training.callbacks.recorder import EPOCH_HEADER
from benchmarks.equal_runs import TABLES, bits, compared, predictions, rows, state, unequal
from benchmarks.machine import machine
from benchmarks.processes import Command, kill, wait_until

RESULTS = Path(__file__).parent / "results" / "kills.json"
TINY = ("model.width=0.05", "data.batch_size=16", "trainer.precision=32-true")
EVERY = ("1 steps", "5 steps")
EARLY = 0.2  # of the kills meet a command before it trains
LEAST = 0.3  # of the run that is taken to be left: behind the last step are a validation, a save and the test
SLOW = 600.0  # seconds after which a command that nobody kills hangs
HEARD = 60.0  # seconds in which a command ends of which one rank was killed
BEGUN = (EPOCH_HEADER, "resuming from")  # what train.log says at the latest where training begins
UNFINISHED = (".*.tmp", ".*.partial", "next.ckpt", ".rendezvous-*")


@dataclass(frozen=True)
class Kind:
    """What a run is made of, and how many processes train it. images: the folder of photographs goes with it."""

    name: str
    overrides: tuple[str, ...]
    ranks: int = 1
    images: bool = False

    def command(self, images: Path) -> list[str]:
        """Its words, but for where it goes and how often it saves."""
        return [*TINY, *self.overrides, *([f"data.root={images}"] if self.images else [])]

    @property
    def victims(self) -> tuple[str, ...]:
        """Whom a kill may meet."""
        return ("all", "parent", "rank") if self.ranks > 1 else ("all", "parent")


DIGITS = ("trainer=cpu", "data.subset=96")
KINDS = (
    Kind("one process", (*DIGITS, "trainer.max_epochs=12")),
    Kind("two ranks", ("trainer=ddp_cpu", "data.subset=96", "trainer.max_epochs=8"), ranks=2),
    Kind(
        "averaged weights, accumulation, loader workers",
        (
            *("trainer=cpu", "data=folder", "data.size=40", "data.crop=32", "data.decode=always", "data.workers=2"),
            *("model.input_size=32", "callbacks=ema", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=6"),
        ),
        images=True,
    ),
    Kind(
        "one cycle, crops, mirrors, dropout",
        (*DIGITS, "model=lrn", "data.pad=2", "data.mirror=true", "model.dropout=0.5", "trainer.max_epochs=12"),
    ),
)


@dataclass(frozen=True)
class Undisturbed:
    """The run of a kind that nothing came between: its folder, and its seconds until it trained, and from there on."""

    folder: Path
    start: float
    rest: float
    steps: int


@dataclass(frozen=True)
class Kill:
    """One of them. moment: as planned; met: what the run was doing, by what lay in its folder right after.

    orphans: processes that were left `LEAVING` seconds later. torn: files that cannot be read whole.
    """

    victim: str
    moment: str
    met: str
    checkpoint: bool
    orphans: int
    torn: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """A run that was killed and gone on with, in the end."""

    kind: str
    every: str
    kills: list[Kill] = field(default_factory=list)
    resumes: int = 0
    restarts: int = 0  # from the command itself, where there was no folder yet to go on from
    failures: list[str] = field(default_factory=list)  # commands that ended otherwise than they should
    differences: list[str] = field(default_factory=list)
    bits: int = 0
    bits_differing: int = 0
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing at all was lost, left or torn."""
        faults = self.failures or self.differences or self.left_over
        return not faults and not any(each.orphans or each.torn for each in self.kills)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of whom is killed, and when")
    parser.add_argument("--kind", action="append", metavar="WORD", help="only kinds of runs whose name has it")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="JSON")
    given = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if not given.kind or any(word in kind.name for word in given.kind)]
    if not kinds:
        parser.error(f"--kind {' '.join(given.kind)}: none of {'; '.join(kind.name for kind in KINDS)}")
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    outcomes = []
    for outcome in runs(kinds, given.kills, random.Random(given.seed), folder):
        outcomes.append(outcome)
        print(line(outcome), file=sys.stderr, flush=True)
        found = {"machine": machine(), "seed": given.seed, "totals": totals(outcomes)}
        found["runs"] = [asdict(each) for each in outcomes]
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(outcomes))
    if all(each.is_good for each in outcomes):
        shutil.rmtree(folder)
        return ExitCode.OK
    print(f"the folders are kept in {folder}", file=sys.stderr)
    return ExitCode.FAILED


def runs(kinds: Sequence[Kind], kills: int, chance: random.Random, folder: Path) -> Iterator[Outcome]:
    """Runs until so many kills were made, always of the kind that has had the fewest; the last one ends in peace."""
    images = folder / "images"
    photographs(images)
    alone: dict[Kind, Undisturbed] = {}
    waiting: dict[Kind, list[str]] = {kind: [] for kind in kinds}
    made: Counter[Kind] = Counter()
    number = 0
    while made.total() < kills:
        kind = min(kinds, key=lambda each: made[each])
        number += 1
        if kind not in alone:
            alone[kind] = undisturbed(kind, images, folder)
        run = folder / f"run{number}"
        outcome = killed(kind, run, alone[kind], images, chance, waiting[kind], kills - made.total())
        made[kind] += len(outcome.kills)
        if outcome.is_good:
            shutil.rmtree(run)
        yield outcome


def next_victim(waiting: list[str], victims: Sequence[str], has_ranks: bool, chance: random.Random) -> str:
    """Whom to kill: each of `victims` as often as the others, in a random order; `rank` waits until there is one.

    waiting: whose turn is still to come; changed.
    """
    if not waiting:
        waiting += chance.sample(victims, len(victims))
    victim = next((each for each in waiting if each != "rank" or has_ranks), "parent")
    if victim in waiting:
        waiting.remove(victim)
    return victim


def photographs(folder: Path) -> None:
    """Two classes of JPEGs; noise, which no two of them have in common."""
    random_pixels = np.random.default_rng(1)
    for split, count in (("train", 48), ("test", 16)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random_pixels.integers(0, 255, (48, 56, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")


def undisturbed(kind: Kind, images: Path, folder: Path) -> Undisturbed:
    """Trains it; raises RuntimeError where even that fails."""
    run = folder / kind.name.replace(",", "").replace(" ", "_")
    command = Command.start([*kind.command(images), f"hydra.run.dir={run}"], folder, folder / f"{run.name}.txt")
    wait_until(lambda: not command.running() or has_begun(run, 0), SLOW)
    start = command.seconds
    if not command.wait(SLOW) or command.process.returncode != ExitCode.OK:
        command.kill()
        raise RuntimeError(f"{kind.name}: failed undisturbed\n{(folder / f'{run.name}.txt').read_text()}")
    return Undisturbed(run, start, command.seconds - start, steps(run))


def killed(
    kind: Kind, run: Path, alone: Undisturbed, images: Path, chance: random.Random, waiting: list[str], most: int
) -> Outcome:
    """A run that is killed up to `most` times, gone on with until it is done, and held against the undisturbed one."""
    every = chance.choice(EVERY)
    outcome = Outcome(kind.name, every)
    first = [*kind.command(images), f"checkpoint.every={every}", f"hydra.run.dir={run}"]
    words, log = first, run.with_suffix(".txt")
    while True:
        before = size(run / "train.log")
        command = Command.start(words, run.parent, log)
        made = attempt(kind, command, run, before, alone, chance, waiting) if len(outcome.kills) < most else None
        if made is None:
            ended = command.wait(SLOW)
            command.kill()
            if not ended or command.process.returncode != ExitCode.OK:
                how = f"exit code {command.process.returncode}" if ended else "hangs"
                outcome.failures.append(f"{' '.join(words)}: {how}\n{log.read_text()[-2000:]}")
            elif outcome.kills:
                judge(outcome, alone.folder, run)
            return outcome
        outcome.kills.append(made)
        words = ["resume", str(run)] if can_resume(run) else first
        outcome.resumes += words is not first
        outcome.restarts += words is first


def attempt(
    kind: Kind,
    command: Command,
    run: Path,
    before: int,
    alone: Undisturbed,
    chance: random.Random,
    waiting: list[str],
) -> Kill | None:
    """Kills the command at a random moment; None where it had ended by then.

    before: the size of train.log when it was started. waiting: see `next_victim`.
    """
    early, share = chance.random() < EARLY, chance.random()
    if early:
        seconds = share * alone.start
        moment = f"{seconds:.2f} s after its start"
        due = command.started + seconds
    else:
        wait_until(lambda: not command.running() or has_begun(run, before), SLOW)
        left = max(1 - steps(run) / alone.steps, LEAST)
        seconds = share * left * alone.rest
        moment = f"{seconds:.2f} s after it began to train"
        due = time.monotonic() + seconds
    if command.wait(due - time.monotonic()):
        return None
    ranks = command.ranks() if kind.ranks > 1 else []
    victim = next_victim(waiting, kind.victims, bool(ranks), chance)
    if victim == "all":
        command.kill()
    else:
        kill(chance.choice(ranks) if victim == "rank" else command.process.pid)
    trained = has_begun(run, before)
    if not command.wait(HEARD):
        victim += ", whose others did not end"
    orphans = command.left()
    command.kill()
    found = phase(run, trained, alone)
    return Kill(victim, moment, found, has_checkpoint(run), len(orphans), torn(run))


def phase(run: Path, trained: bool, alone: Undisturbed) -> str:
    """What it was doing when it was killed. trained: whether this attempt had begun to."""
    if not trained:
        return "starting"
    if any(file for pattern in UNFINISHED for file in (run / "checkpoints").glob(pattern)):
        return "saving"
    if len(rows(run / "metrics.csv")) == len(rows(alone.folder / "metrics.csv")):
        return "testing"
    return "training"


def has_begun(run: Path, before: int) -> bool:
    """Whether train.log, from so many bytes on, tells of a training."""
    file = run / "train.log"
    if not file.exists():
        return False
    text = file.read_bytes()[before:].decode(errors="replace")
    return any(each in text for each in BEGUN)


def can_resume(run: Path) -> bool:
    """Whether a run lies there, or what it was to be."""
    return any((run / name).exists() for name in ("result.json", ".hydra/config.yaml"))


def has_checkpoint(run: Path) -> bool:
    """Whether there is a state to go on from."""
    return any(path.name != "next.ckpt" for path in (run / "checkpoints").glob("[!.]*.ckpt"))


def size(file: Path) -> int:
    """Bytes; 0 where it is not there."""
    return file.stat().st_size if file.exists() else 0


def steps(run: Path) -> int:
    """How many steps are recorded."""
    return len(rows(run / "steps.csv"))


def torn(run: Path) -> list[str]:
    """The files under their own names that cannot be read whole. A table's last line may be cut: no reader takes it."""
    readers: dict[str, Callable[[Path], object]] = {
        "result.json": lambda file: json.loads(file.read_text(encoding="utf-8")),
        ".hydra/config.yaml": lambda file: read_config(file.parents[1]),
        "*.csv": read_table,
        "checkpoints/[!.]*.ckpt": whole,
        "predictions/[!.]*.npz": lambda file: predictions(file.parents[1]),
    }
    found = []
    for pattern, read in readers.items():
        for file in run.glob(pattern):
            if file.name == "next.ckpt":  # not yet under its own name
                continue
            try:
                read(file)
            except Exception as error:
                found.append(f"{file.relative_to(run)}: {error}")
    return found


def whole(file: Path) -> None:
    """Raises an error where a checkpoint is not what its checksum says; without one, where it cannot be read."""
    if not checksum.verify(file):
        torch.load(file, map_location="cpu", weights_only=True)


def judge(outcome: Outcome, expected: Path, found: Path) -> None:
    """Writes down how the run that was killed differs from the other one."""
    differing = unequal(expected, found)
    outcome.differences = [str(each) for each in differing]
    outcome.bits = bits(state(expected)) + bits(predictions(expected))
    outcome.bits_differing = sum(each.bits for each in differing)
    outcome.rows = {name: asdict(compared(expected / name, found / name)) for name in TABLES}
    outcome.left_over = [str(file.relative_to(found)) for pattern in UNFINISHED for file in found.rglob(pattern)]


def totals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the table says in one line for all."""
    kills = [each for outcome in outcomes for each in outcome.kills]
    tables = {
        f"{name}: {what}": sum(outcome.rows[name][what] for outcome in outcomes if outcome.rows)
        for name in TABLES
        for what in ("expected", "lost", "repeated", "changed")
    }
    return {
        "runs": len(outcomes),
        "kills": len(kills),
        "victims": dict(Counter(each.victim for each in kills)),
        "met": dict(Counter(each.met for each in kills)),
        "before the first checkpoint": sum(not each.checkpoint for each in kills),
        "resumes": sum(each.resumes for each in outcomes),
        "restarts": sum(each.restarts for each in outcomes),
        "bits compared": sum(each.bits for each in outcomes),
        "bits that differ": sum(each.bits_differing for each in outcomes),
        "differences": sum(len(each.differences) for each in outcomes),
        **tables,
        "commands that failed": sum(len(each.failures) for each in outcomes),
        "orphans": sum(each.orphans for each in kills),
        "torn files": sum(len(each.torn) for each in kills),
        "files left over": sum(len(each.left_over) for each in outcomes),
    }


def line(outcome: Outcome) -> str:
    """A run in a line, and what went wrong with it in further ones."""
    met = Counter(f"{each.victim}, {each.met}" for each in outcome.kills)
    kills = "; ".join(f"{count} {what}" for what, count in met.items())
    told = f"{outcome.kind}, every {outcome.every}: {len(outcome.kills)} kills ({kills})"
    torn_files = [name for each in outcome.kills for name in each.torn]
    orphans = sum(each.orphans for each in outcome.kills)
    faults = [*outcome.failures, *outcome.differences, *outcome.left_over, *torn_files]
    faults += [f"{orphans} orphans"] if orphans else []
    return "\n  ".join([f"{told}: {'nothing lost' if outcome.is_good else 'NOT good'}", *faults])


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a row a kind, and one for all."""
    titles = ["runs of", "runs", "kills", "resumes", "bits compared", "bits that differ", "batches", "lost or other"]
    titles += ["rows of metrics.csv", "lost or other", "orphans", "torn files", "left over", "commands that failed"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    groups = {
        name: [each for each in outcomes if each.kind == name] for name in dict.fromkeys(o.kind for o in outcomes)
    }
    for name, group in {**groups, "all": list(outcomes)}.items():
        found = totals(group)
        cells: list[Any] = [name, found["runs"], found["kills"], found["resumes"] + found["restarts"]]
        cells += [f"{found['bits compared']:,}", found["bits that differ"]]
        for file in ("steps.csv", "metrics.csv"):
            faults = sum(found[f"{file}: {what}"] for what in ("lost", "repeated", "changed"))
            cells += [f"{found[f'{file}: expected']:,}", faults]
        cells += [found[key] for key in ("orphans", "torn files", "files left over", "commands that failed")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
