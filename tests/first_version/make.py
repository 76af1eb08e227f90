"""Makes files.tar.xz and expected.json with the first version of the code; README.md has the command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARCHIVE = HERE / "files.tar.xz"
OUTPUTS = Path("outputs")
FOLDERS = ("ended", "killed", "stopped", "swept")
TINY = (
    *("trainer=cpu", "trainer.precision=32-true", "data.subset=192", "data.batch_size=32"),
    *("model.width=0.03", "model.stages.fc6.out=500", "model.stages.fc7.out=500"),  # 5,275 parameters
)
STOPPED = (
    *("name=stopped", *TINY, "trainer.max_epochs=6", "model.dropout=0.1", "optim.lr=0.01", "callbacks=ema"),
    *("data.pad=2", "data.mirror=true", "checkpoint.every=4 steps"),
)
ENDED = (
    *("name=ended", *TINY, "trainer.max_epochs=4", "model=lrn", "model.dropout=0.1", "optim.lr=0.01"),
    *("schedule=cosine", "trainer.max_time=00:01:00:00"),
)
KILLED = (
    *("name=killed", *TINY, "trainer.max_epochs=8", "optim=sgd", "optim.lr=0.05", "model.dropout=0.1"),
    *("schedule=plateau", "schedule.patience=0", "checkpoint.every=4 steps", "trainer.on_nan=skip"),
    # no epoch is better by 0.5, so that the run ends after its fifth
    *("callbacks=[early_stopping,train_error]", "callbacks.early_stopping.min_delta=0.5"),
    *("callbacks.early_stopping.patience=4", "callbacks.train_error.target=0.8"),
)
SWEEP = (
    *("-m", "name=swept", "seed=1,2,3", "optim.lr=0.02,0.1", *TINY, "optim=sgd", "model.dropout=0.1"),
    *("schedule=constant", "trainer.max_epochs=8", "checkpoint.keep=best"),
)
# Replaces what the first version records of the machine: the kernel's version and the host name.
SITE = """
import platform, socket
platform.platform = lambda *_, **__: "Linux-x86_64"
socket.gethostname = lambda: "host"
"""


def weights(checkpoint: Path) -> str:
    """Returns the SHA-256 of the weights in a checkpoint."""
    import torch

    return digest(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])


def digest(tensors: dict[str, Any]) -> str:
    """Returns the SHA-256 of each tensor's name, type, shape and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def summary(run: Path) -> dict[str, Any]:
    """Returns the results of a run, without the columns of time."""
    result = json.loads((run / "result.json").read_text())
    keys = ("status", "epochs", "best_epoch", "metrics_epoch", "tested", "fingerprint", "stopped_early", "metrics")
    return {
        "result": {key: result.get(key) for key in keys},
        "attempts": [attempt["status"] for attempt in result.get("attempts", [])],
        "weights": {file.stem: weights(file) for file in sorted((run / "checkpoints").glob("*.ckpt"))},
        "steps": (run / "steps.csv").read_text().split(),
        "epochs": [",".join(row.split(",")[:8]) for row in (run / "metrics.csv").read_text().split()],
    }


def image(path: Path) -> None:
    """Writes an image for `predict`: a grey gradient."""
    import numpy as np
    from PIL import Image

    Image.fromarray(np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)).save(path)


def command(*arguments: str, code: int = 0) -> str:
    """Runs one command of the checkout in the current folder; returns its standard output."""
    done = subprocess.run([sys.executable, "-m", "alexnet_exp", *arguments], stdout=subprocess.PIPE, text=True)
    assert done.returncode == code, (arguments, done.returncode)
    return done.stdout


def sent_at(step: int, number: signal.Signals, arguments: tuple[str, ...], code: int) -> None:
    """Runs one command, which sends a signal to itself in the n-th step of its training."""
    text = f"""
import os, sys
from alexnet_exp.__main__ import main
from alexnet_exp.module import AlexNetModule
original, calls = AlexNetModule.training_step, 0
def training_step(*arguments, **options):
    global calls
    calls += 1
    if calls == {step}:
        os.kill(os.getpid(), {int(number)})
    return original(*arguments, **options)
AlexNetModule.training_step = training_step
sys.exit(main({list(arguments)!r}))
"""
    assert subprocess.run([sys.executable, "-c", text]).returncode == code


def swept_in_part() -> None:
    """Runs the sweep, and stops it in its fifth job of six."""
    process = subprocess.Popen([sys.executable, "-m", "alexnet_exp", *SWEEP])
    while len(list(OUTPUTS.glob("swept/*/*/result.json"))) < 5 or not _has_rows(_newest("swept/*/*/result.json")):
        assert process.poll() is None, "the sweep ended before it was stopped"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75


def _newest(pattern: str) -> Path:
    return max(OUTPUTS.glob(pattern), key=lambda path: json.loads(path.read_text())["start"]).parent


def _has_rows(run: Path) -> bool:
    return (run / "metrics.csv").exists() and len((run / "metrics.csv").read_text().split()) > 2


def make_files() -> None:
    """Writes the archive. The current folder is a clean checkout without runs."""
    assert list(OUTPUTS.iterdir()) == [OUTPUTS / ".gitkeep"], "outputs/ has runs"
    sent_at(15, signal.SIGTERM, STOPPED, 75)  # in the third epoch of six
    command(*ENDED)
    sent_at(17, signal.SIGKILL, KILLED, -signal.SIGKILL)  # in the third epoch, behind the checkpoint of step 16
    swept_in_part()
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for name in FOLDERS:
            archive.add(OUTPUTS / name, filter=_nobody)


def make_expected() -> None:
    """Writes the values that the checkout in the current folder computes from the files of the archive."""
    import torch
    from safetensors.torch import load_file

    for name in FOLDERS:
        shutil.rmtree(OUTPUTS / name, ignore_errors=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(filter="data")
    image(OUTPUTS / "slope.png")
    ended, killed, stopped, swept = (str(next((OUTPUTS / name).iterdir())) for name in FOLDERS)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    compared = ("compare", swept, "--baseline", "optim.lr=0.02", "--format", "json")
    expected: dict[str, Any] = {
        "commit": commit,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "eval": json.loads(command("eval", ended)),
        "predict": json.loads(command("predict", ended, "outputs/slope.png", "--json")),
        "compare": json.loads(command(*compared)),
    }
    command("export", ended, "--format", "safetensors", "--out", "outputs/exported")
    expected["export"] = {
        file.name: digest(load_file(file)) for file in sorted((OUTPUTS / "exported").glob("*.safetensors"))
    }
    for run, more in ((stopped, ()), (ended, ("trainer.max_epochs=6",)), (killed, ())):
        command("resume", run, *more)
        expected[Path(run).parent.name] = summary(Path(run))
    command("resume", swept)
    expected["swept"] = {path.parent.name: summary(path.parent) for path in sorted(Path(swept).glob("*/result.json"))}
    expected["compare_resumed"] = json.loads(command(*compared))
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "sitecustomize.py").write_text(SITE)
        os.environ |= {"PYTHONPATH": f"{Path.cwd()}:{site}", "OMP_NUM_THREADS": "1"}
        {"files": make_files, "expected": make_expected}[sys.argv[1]]()
