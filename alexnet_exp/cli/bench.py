"""`bench [overrides]`: measures how fast an experiment trains on this machine, and where the time goes."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from alexnet_exp.cli.output import report_loading
from alexnet_exp.cli.parser import with_overrides
from alexnet_exp.config.compose import compose
from alexnet_exp.config.composition import Composition, check_new_run
from alexnet_exp.config.schema import Config
from alexnet_exp.errors import ExitCode, UserError
from alexnet_exp.sanitize import escape_controls


def run(arguments: list[str]) -> int:
    """Prints the report, followed by one JSON object if stdout is not a terminal; with --json only that object."""
    parser = with_overrides(
        "bench", "Measures images/s, the share of the machine's peak FLOP/s, data wait, and the time of each layer."
    )
    parser.add_argument("--steps", type=_count, metavar="N", help="steps to measure; default: some seconds")
    parser.add_argument("--batch", type=_counts, metavar="32,64,128", help="measures each of these batch sizes")
    parser.add_argument("--no-layers", action="store_true", help="does not measure the layers")
    parser.add_argument("--candidates", action="store_true", help="measures each candidate of each operator")
    parser.add_argument("--json", action="store_true", help="prints one JSON object")
    given = parser.parse_args(arguments)
    composition = Composition.of(compose(given.overrides, given.config_dir))

    report_loading()
    from alexnet_exp.bench.synthetic import stand_in

    container, note = stand_in(composition.config, composition.container)
    if note:
        composition = Composition.of(container)
    found, code = _measured(composition.config, given)
    if found is None:
        return code
    found["data_note"] = note
    if not given.json:
        from alexnet_exp.bench.report import lines

        print("\n".join(lines(found)))
    if given.json or not sys.stdout.isatty():
        print(json.dumps(found))
    return ExitCode.OK


def _measured(config: Config, given: argparse.Namespace) -> tuple[dict[str, Any] | None, int]:
    """Returns the measurement and the exit code; None after a failure and on ranks other than 0."""
    from alexnet_exp import logs
    from alexnet_exp.bench.run import RESULT_FILE, BenchRequest, bench_rank, measure
    from alexnet_exp.processes.ranks import is_rank, rank
    from alexnet_exp.training.devices import check_ranks, device_count, select_devices
    from alexnet_exp.training.launch import run_ranks

    check_new_run(config)
    if given.candidates and given.batch:
        raise UserError("bench: --candidates: measures one batch size; write data.batch_size=N in place of --batch")
    ask = BenchRequest(given.steps, tuple(given.batch or ()), not given.no_layers, given.candidates)
    accelerator, devices, _ = select_devices(config.trainer)
    check_ranks(config)
    if config.trainer.num_nodes > 1 and not is_rank():
        raise UserError(f"trainer.num_nodes={config.trainer.num_nodes}: bench runs on one machine; write 1")
    if device_count(devices) == 1 or is_rank():
        logs.configure(None, rank())
        found = measure(config, ask)
        return (found if rank() == 0 else None), ExitCode.OK
    with tempfile.TemporaryDirectory(prefix="alexnet_exp-bench-") as scratch:
        backend = "nccl" if accelerator == "cuda" else "gloo"
        ending = run_ranks(bench_rank, device_count(devices), backend, (config, ask), Path(scratch))
        if ending.code == ExitCode.OK:
            return json.loads((Path(scratch) / RESULT_FILE).read_text(encoding="utf-8")), ExitCode.OK
    if ending.code == ExitCode.BAD_INPUT:
        raise UserError(ending.reason)
    print("interrupted" if ending.code == ExitCode.INTERRUPTED else escape_controls(ending.reason), file=sys.stderr)
    return None, ending.code


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least 1")
    return int(text)


def _counts(text: str) -> list[int]:
    return sorted({_count(each.strip()) for each in text.split(",")})
