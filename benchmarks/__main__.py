"""Measures the speed of this project and of its alternatives: a table, and a JSON file for each group.

    python -m benchmarks                        all groups, one after another
    python -m benchmarks lrn input --turns 15
    python -m benchmarks --list
    python -m benchmarks --write-docs           writes the tables and pictures of docs/ from the JSON files only

Run it alone on the machine: other computing processes are detected and reported beside each figure. The exit code is 1
if a group or a check of it failed. A group whose peer is not installed is skipped. docs/background/measuring.md
explains the figures.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alexnet_exp.errors import ExitCode, UserError, suggest_name
from benchmarks.machine import Watch, adopt_orphans, bury
from benchmarks.pages import write_docs
from benchmarks.processor import RESULTS, gpu, this_processor
from benchmarks.rows import Row
from benchmarks.table import Result, load, save, show

# The module of each group: its `rows` measures.
GROUPS = {
    name: f"benchmarks.{name}"
    for name in (
        *("training", "choice", "lrn", "overhead", "input", "sweep_jobs", "startup"),
        *("accuracy_time", "fast_90", "scale", "cuda"),
    )
}
ON_GPU = ("cuda",)  # groups that measure the GPU


def main(arguments: Sequence[str] | None = None, groups: Mapping[str, str] = GROUPS) -> int:
    """Runs one command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a group; default: all groups")
    parser.add_argument("--turns", type=_count, metavar="N", help="number of alternating measurements of both sides")
    parser.add_argument("--rows", type=_names, metavar="ROW,ROW", help="some rows of choice; the others are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder for the folders of processors")
    parser.add_argument("--list", action="store_true", help="lists the groups, one per line")
    parser.add_argument("--write-docs", action="store_true", help="only writes docs/ from the JSON files of --out")
    parser.add_argument("--keras", type=_absolute, metavar="PYTHON", help="a Python interpreter with tensorflow-cpu")
    parser.add_argument("--images", type=_absolute, metavar="NPZ", help="CIFAR-10 for --keras; written if missing")
    parser.add_argument(
        "--cifar", type=_absolute, metavar="FOLDER", help="CIFAR-10 as train/CLASS/*, test/CLASS/*; default: downloaded"
    )
    parser.add_argument("--budget", type=_count, metavar="SECONDS", help="for cuda; default: 540")
    given = parser.parse_args(arguments)
    try:
        unknown = [name for name in given.names if name not in groups]
        if unknown:
            raise UserError("\n".join(f"{name}: no such group; {suggest_name(name, groups)}" for name in unknown))
        if given.list:
            _list(groups)
            return ExitCode.OK
        if given.write_docs:
            for written in write_docs(given.out, groups):
                print(written)
            return ExitCode.OK
        wanted = {name: groups[name] for name in given.names or groups}
        options = {key: getattr(given, key) for key in ("turns", "keras", "images", "cifar", "budget", "out")}
        return _measure(wanted, given.out, options | {"only": given.rows})
    except UserError as error:
        print(error, file=sys.stderr)
        return ExitCode.BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _measure(groups: Mapping[str, str], out: Path, options: Mapping[str, Any]) -> int:
    adopt_orphans()
    done: list[Result] = []
    failed = []
    for name, module in groups.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        result, problem = run(name, module, options)
        if result is None:
            failed += [name] if problem.startswith("failed") else []
            print(f"{name}: {problem}", file=sys.stderr)
            continue
        device = result.machine["gpu"] if name in ON_GPU else None
        folder = (gpu(device) if device else this_processor()).save(out)
        if wrong := result.data.get("failed"):
            failed.append(name)
            print(f"{name}: failed checks: {', '.join(wrong)}", file=sys.stderr)
        if options["only"]:
            result = result.beside(load(name, folder))
        done.append(result)
        told = f"{len(result.rows)} rows in {result.seconds:.0f} s, {save(result, folder)}"
        print(f"{name}: {'; '.join(filter(None, (told, result.load.busy)))}", file=sys.stderr)
    show(done, sys.stdout.isatty())
    return ExitCode.FAILED if failed else ExitCode.OK


def run(name: str, module: str, options: Mapping[str, Any]) -> tuple[Result | None, str]:
    """The group's result; where there is none, why: `failed ...` or `skipped: what is missing`.

    It gets a process of its own, so that no group meets another's threads, allocator or imports.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        passed = json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in options.items()})
        watch, start = Watch(), time.perf_counter()
        # bytecode may be kept, as it is at a user's: a command that compiles all of its imports measures that
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "-m", "benchmarks.group", module, str(file), passed]
        code = subprocess.run(command, env=environment, check=False).returncode
        seconds = time.perf_counter() - start
        bury()
        if code != 0:
            return None, f"failed, with exit code {code}"
        read = json.loads(file.read_text(encoding="utf-8"))
    if "missing" in read:
        return None, f"skipped: {read['missing']}"
    rows = [Row.from_json(row) for row in read["rows"]]
    return Result(name, rows, read["machine"], watch.load(), seconds, read["data"]), ""


def _list(groups: Mapping[str, str]) -> None:
    """The first line of each module's docstring, without importing torch for it."""
    for name, module in groups.items():
        spec = find_spec(module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else '"""not there"""'
        print(f"{name:<15}{(ast.get_docstring(ast.parse(source)) or '').partition(chr(10))[0]}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _absolute(text: str) -> Path:
    """Not resolved: the Python of a virtual environment is a link, and is told by where it lies."""
    return Path(text).expanduser().absolute()


if __name__ == "__main__":
    sys.exit(main())
