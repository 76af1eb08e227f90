"""What only many jobs or a long run show: memory and handles that grow in a sweep, a run that is killed all the time.

    python -m benchmarks.soak [sweep] [kills] [--jobs 200] [--steps 10000] [--every 20]

sweep: one command with so many short jobs. Its launcher and its fork server are looked at again and again, as are the
shared memory and the temporary files: the median of the jobs after the first tenth is held against that of the last
fifth. kills: a run of so many steps, all of whose processes are killed every so many seconds, gone on with until it is
done, and held against the undisturbed one. Exit code 1 where something grows or differs. /dev/shm is the whole
machine's: nothing else should use it. Cost: 5 minutes each on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_exp.errors import ExitCode
from alexnet_exp.runs.reader import read_result
from benchmarks.equal_runs import bits, compared, predictions, state, unequal
from benchmarks.kills import can_resume, steps
from benchmarks.machine import machine
from benchmarks.processes import PROC, Command

RESULTS = Path(__file__).parent / "results" / "soak.json"
TINY = ("model.width=0.05", "trainer=cpu", "trainer.precision=32-true")
SHORT = (*TINY, "data.subset=64", "data.batch_size=32", "trainer.max_epochs=1")
LONG = (*TINY, "data.batch_size=16", "trainer.max_epochs=null", "trainer.check_val_every_n_epoch=10")
SAVES = "checkpoint.every=100 steps"
EARLY, LATE = (0.1, 0.3), (0.8, 1.0)  # of the jobs: whose medians are compared
MOST_MORE = 0.02  # of its memory that a process may have more in the late jobs: the allocator's own ups and downs
SHARED = Path("/dev/shm")
PAUSE = 0.2  # seconds between two looks at how many jobs have begun
HOUR = 3600.0
STUCK = 10  # kills in a row after which not one step more was saved: it will not get anywhere

Sample = Mapping[str, float]


@dataclass(frozen=True)
class Growth:
    """A figure over the jobs: medians of early and late ones, and its slope between them, by least squares."""

    early: float
    late: float
    per_job: float

    def is_flat(self, is_memory: bool) -> bool:
        """A count may not grow at all, memory by `MOST_MORE`."""
        return self.late <= self.early * (1 + MOST_MORE * is_memory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="sweep, kills", help="both where none is named")
    parser.add_argument("--jobs", type=int, default=200, metavar="N")
    parser.add_argument("--steps", type=int, default=10_000, metavar="N")
    parser.add_argument("--every", type=float, default=20.0, metavar="SECONDS", help="between two kills")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="JSON", help="a part not named stays in it")
    given = parser.parse_args(arguments)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "sweep": lambda folder: sweep(given.jobs, folder),
        "kills": lambda folder: kills(given.steps, given.every, folder),
    }
    if unknown := set(given.parts) - set(parts):
        parser.error(f"{', '.join(unknown)}: the parts are {', '.join(parts)}")
    found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    good = True
    for name in given.parts or parts:
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        part = parts[name](folder)
        found[name] = {"machine": machine(), **part}
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(told(name, part))
        if part["good"]:
            shutil.rmtree(folder)
        else:
            print(f"its folder is kept: {folder}", file=sys.stderr)
        good = good and part["good"]
    return ExitCode.OK if good else ExitCode.FAILED


def sweep(jobs: int, folder: Path) -> dict[str, Any]:
    """Runs so many jobs in one command, and looks at it whenever another one has begun."""
    runs, temporary = folder / "sweep", folder / "tmp"
    temporary.mkdir()
    words = ["-m", f"seed=range(1,{jobs + 1})", *SHORT, f"hydra.sweep.dir={runs}"]
    command = Command.start(words, folder, folder / "sweep.txt", {"TMPDIR": str(temporary)})
    samples: list[Sample] = []
    while command.running():
        begun = len(list(runs.glob("*/result.json")))
        if begun and (not samples or begun > samples[-1]["jobs"]):
            samples.append({"jobs": begun, **look(command, temporary)})
        command.wait(PAUSE)
    orphans = len(command.left())
    command.kill()
    done = sum(read_result(file.parent)["status"] == "done" for file in runs.glob("*/result.json"))
    samples = [sample for sample in samples if sample.get("launcher rss") and sample.get("server rss")]
    figures = sorted(set(samples[0]) - {"jobs"}) if samples else []
    grown = {figure: growth(samples, figure, jobs) for figure in figures}
    flat = bool(grown) and all(each.is_flat(is_memory(figure)) for figure, each in grown.items())
    good = flat and done == jobs and not orphans and command.process.returncode == ExitCode.OK
    return {
        "jobs": jobs,
        "done": done,
        "orphans": orphans,
        "good": good,
        "growth": {figure: asdict(each) for figure, each in grown.items()},
        "samples": samples,
    }


def look(command: Command, temporary: Path) -> dict[str, float]:
    """What the command and its fork server hold now: bytes, open files, threads; and files that are to be temporary."""
    found: dict[str, float] = {}
    for name, pid in (("launcher", command.process.pid), ("server", command.server())):
        if pid is not None:
            found |= {f"{name} {figure}": value for figure, value in held(pid).items()}
    return found | {"shared memory files": entries(SHARED), "temporary files": entries(temporary)}


def held(pid: int) -> dict[str, float]:
    """Bytes of memory (its own and shared; and with shared pages divided among those that share them), files, threads.

    Empty where the process is gone.
    """
    folder = PROC / str(pid)
    try:
        status = _fields(folder / "status")
        rollup = _fields(folder / "smaps_rollup")
        handles = len(list((folder / "fd").iterdir()))
    except OSError:
        return {}
    if "VmRSS" not in status:  # it has ended, and its parent has not looked yet
        return {}
    return {
        "rss": 1024 * status["VmRSS"],
        "pss": 1024 * rollup["Pss"],
        "handles": handles,
        "threads": status["Threads"],
    }


def _fields(file: Path) -> dict[str, int]:
    """Those fields of `NAME: NUMBER ...` lines whose value is a whole number."""
    pairs = (line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    return {name: int(rest.split()[0]) for name, rest in pairs if rest.split() and rest.split()[0].isdigit()}


def entries(folder: Path) -> int:
    """How many files and folders it holds, at any depth."""
    return sum(1 for _ in folder.rglob("*"))


def is_memory(figure: str) -> bool:
    """Whether it is in bytes; else it is a count."""
    return figure.endswith(("rss", "pss"))


def growth(samples: Sequence[Sample], figure: str, jobs: int) -> Growth:
    """How a figure of the samples, of a sweep of so many jobs, grows."""

    def median(share: tuple[float, float]) -> float:
        low, high = (jobs * each for each in share)
        return statistics.median(sample[figure] for sample in samples if low <= sample["jobs"] <= high)

    later = [sample for sample in samples if sample["jobs"] >= EARLY[0] * jobs]
    line = statistics.linear_regression([each["jobs"] for each in later], [each[figure] for each in later])
    return Growth(median(EARLY), median(LATE), line.slope)


def kills(number: int, every: float, folder: Path) -> dict[str, Any]:
    """Trains so many steps, killed every so many seconds until it is done, and once undisturbed; compares both."""
    words = [*LONG, f"trainer.max_steps={number}"]
    alone, run = folder / "undisturbed", folder / "run"
    command = Command.start([*words, f"hydra.run.dir={alone}"], folder, folder / "undisturbed.txt")
    if not command.wait(HOUR) or command.process.returncode != ExitCode.OK:
        command.kill()
        raise RuntimeError((folder / "undisturbed.txt").read_text())
    undisturbed_seconds = command.seconds
    first = [*words, SAVES, f"hydra.run.dir={run}"]
    made, orphans, seconds, stood = 0, 0, 0.0, [0]
    words = first
    while len(set(stood[-STUCK:])) > 1 or len(stood) < STUCK:
        command = Command.start(words, folder, folder / "run.txt")
        ended = command.wait(every)
        seconds += min(command.seconds, every)
        command.kill()
        if ended:
            break
        made += 1
        orphans += len(command.left())
        stood.append(steps(run))
        words = ["resume", str(run)] if can_resume(run) else first
    done = command.process.returncode == ExitCode.OK
    found = [str(each) for each in unequal(alone, run)] if done else [(folder / "run.txt").read_text()[-2000:]]
    table = compared(alone / "steps.csv", run / "steps.csv")
    return {
        "steps": number,
        "every": every,
        "kills": made,
        "resumes": made,
        "orphans": orphans,
        "seconds_undisturbed": round(undisturbed_seconds, 1),
        "seconds_killed": round(seconds, 1),
        "steps_at_kills": stood[1:],
        "rows": asdict(table),
        "bits": bits(state(alone)) + bits(predictions(alone)),
        "differences": found,
        "good": done and not found and not orphans,
    }


def told(name: str, part: Mapping[str, Any]) -> str:
    """A part's figures, for a terminal."""
    if name == "kills":
        rows = part["rows"]
        return (
            f"{part['steps']:,} steps, killed every {part['every']:g} s: {part['kills']} kills; steps lost "
            f"{rows['lost']}, repeated {rows['repeated']}, other {rows['changed']}; {part['bits']:,} bits compared, "
            f"{len(part['differences'])} differences; {part['orphans']} orphans"
        )
    lines = [f"{part['jobs']} jobs in one sweep: {part['done']} done, {part['orphans']} orphans", ""]
    lines += ["| what | jobs 10 to 30 % | jobs 80 to 100 % | a job |", "|---|---|---|---|"]
    for figure, each in part["growth"].items():
        unit, factor, digits = ("MB", 1e-6, 1) if is_memory(figure) else ("", 1, 0)
        early, late = (f"{each[key] * factor:.{digits}f} {unit}".strip() for key in ("early", "late"))
        slope = f"{each['per_job'] / 1e3:+.2f} kB" if is_memory(figure) else f"{each['per_job']:+.4f}"
        lines.append(f"| {figure} | {early} | {late} | {slope} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
