"""What somebody else's files may try: each is refused in one line or read as plain data, and nothing of it is run."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import alexnet_exp
from alexnet_exp import logs
from alexnet_exp.__main__ import main
from alexnet_exp.compare.next_seeds import read_overrides
from alexnet_exp.errors import UserError
from alexnet_exp.kernels.native import NATIVE_VARIABLE
from alexnet_exp.runs import checksum
from alexnet_exp.runs.folder import flatten, to_json_value
from alexnet_exp.runs.reader import YAML_LOADER, read_config
from alexnet_exp.runs.run import Run
from alexnet_exp.runs.sweep_plan import SweepPlan
from tests.conftest import train_into

PACKAGE = Path(alexnet_exp.__file__).parent
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run, to be copied: what the tests do to it is their own."""
    path = tmp_path_factory.mktemp("security") / "run"
    assert train_into(path).code == 0
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run as `outputs/x/run` of the working folder."""
    monkeypatch.chdir(tmp_path)
    path = Path("outputs/x/run")
    shutil.copytree(trained, path)
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that is there once code of an attack has run."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "it has run"


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err.rstrip("\n")
    assert "\n" not in told, told
    return told


def set_config(run: Path, **settings: Any) -> None:
    """Changes the run's configuration wherever it is written: what contradicts itself would be refused before."""
    file = run / ".hydra" / "config.yaml"
    config = {**yaml.safe_load(file.read_text()), **settings}
    file.write_text(yaml.safe_dump(config))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"config": to_json_value(flatten(config))}))


# --- the source: no reader that runs what it reads


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for file in [*PACKAGE.rglob("*.py"), *PACKAGE.parent.joinpath("hydra_plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file.name, ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


def test_no_code_of_ours_reads_a_file_in_a_way_that_runs_it() -> None:
    seen = set()
    for file, name, call in calls():
        seen.add(name)
        if name == "torch.load":
            assert keyword(call, "weights_only") == "True", file
        if name in ("np.load", "numpy.load"):
            assert keyword(call, "allow_pickle") in (None, "False"), file
        if name == "yaml.load":
            assert keyword(call, "Loader") == "YAML_LOADER", file
        if name in ("pickle.load", "pickle.loads"):
            assert file in ("child.py", "child_task.py"), file  # between a process and its own child
        assert keyword(call, "shell") is None, file
        words = ("eval", "exec", "os.system", "os.popen", "torch.jit.load", "yaml.unsafe_load", "instantiate")
        assert name not in (*words, "hydra.utils.instantiate", "torch.serialization.add_safe_globals"), file
    assert {"torch.load", "np.load", "yaml.load", "pickle.loads"} <= seen  # that the search finds what is there
    assert issubclass(YAML_LOADER, yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)


# --- checkpoints


def poisoned(file: Path, place: str, canary: Path, legacy: bool = False) -> None:
    """The checkpoint with a payload somewhere in it, and the checksum of what it is now."""
    content = torch.load(file, weights_only=True)
    match place:
        case "optimizer":
            content["optimizer_states"][0]["state"]["x"] = {"exp_avg": Payload(canary)}
        case "array":
            content["array"] = np.array([Payload(canary)], dtype=object)
        case _:
            content[place] = Payload(canary)
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    checksum.write(file)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["state_dict", "optimizer", "array", "hyper_parameters", "callbacks", "loops"])
def test_code_in_a_checkpoint_is_named_and_not_run(
    place: str, legacy: bool, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("best", "last"):
        poisoned(run / "checkpoints" / f"{name}.ckpt", place, canary, legacy)
    for command in (["eval", str(run)], ["predict", str(run), __file__], ["export", str(run)]):
        told = refused(capsys, *command)
        assert "not loaded, since that could run code" in told or "contains more than tensors" in told


def test_a_run_is_not_resumed_from_a_checkpoint_with_code(run: Path, canary: Path) -> None:
    """No other is whole: it starts over, and trains what its configuration says."""
    for name in ("best", "last"):
        poisoned(run / "checkpoints" / f"{name}.ckpt", "optimizer", canary)
    assert main(["resume", str(run), "trainer.max_epochs=3"]) == 0
    assert "training starts from the beginning" in (run / "train.log").read_text()


def torchscript(path: Path, canary: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def pickled(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(canary)))


def old_tar(path: Path, canary: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Payload(canary))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def zip_bomb(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data.pkl", bytes(1 << 26))


def allowed_calls(path: Path, canary: Path) -> None:
    """Of what torch lets a file name, what does most: a device mesh would open connections."""
    from torch.distributed.device_mesh import DeviceMesh

    class Mesh:
        def __reduce__(self) -> tuple[Any, ...]:
            return DeviceMesh, ("cpu", [0, 1])

    torch.save({"state_dict": Mesh()}, path)


@pytest.mark.parametrize("make", [torchscript, pickled, old_tar, zip_bomb, allowed_calls])
def test_other_files_are_rejected_as_checkpoints_in_one_line(
    make: Any, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("given.pt")
    make(file, canary)
    assert str(file) in refused(capsys, "eval", str(run), "--ckpt", str(file))
    assert str(file) in refused(capsys, "check", "trainer=cpu", f"model.weights={file}")


def test_a_safetensors_header_of_2_to_the_63_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("huge.safetensors").write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    told = refused(capsys, "check", "trainer=cpu", "model.weights=huge.safetensors")
    assert told.startswith("huge.safetensors: truncated, or not a weights file")


def test_predictions_with_objects_are_not_unpickled(run: Path, canary: Path) -> None:
    np.savez(run / "predictions" / "test.npz", probabilities=np.array([Payload(canary)], dtype=object), labels=[0])
    main(["plot", str(run), "--only", "confusion_matrix"])
    main(["compare", str(run)])


# --- the configuration of somebody else's run


def test_nothing_in_a_run_folder_is_resolved(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    set_config(run, note="${oc.env:TOKEN}")
    for command in ("eval", "resume", "plot"):
        extra = ["trainer.max_epochs=3"] if command == "resume" else []
        told = refused(capsys, command, str(run), *extra)
        assert told.startswith("note=${oc.env:TOKEN}: must be plain")
    assert main(["compare", str(run)]) == 0
    assert main(["runs", "show", str(run)]) == 0
    assert "s3cret" not in capsys.readouterr().out
    assert not any("s3cret" in file.read_text(errors="replace") for file in run.rglob("*") if file.is_file())


@pytest.mark.parametrize("node", ["model", "data", "optim", "schedule", "trainer"])
def test_nested_interpolations_are_not_resolved(node: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = read_config(run)[node]
    set_config(run, **{node: {**inner, "name": "${oc.decode:x}"}})
    assert "oc.decode" in refused(capsys, "eval", str(run))


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "!!python/object/apply:os.system ['touch canary']\n",
        "note: !!python/name:os.system\n",
        "[" * 100_000,
        "note: {unfinished\n",
        "just text\n",
    ],
)
@pytest.mark.parametrize("command", ["eval", "resume", "plot"])
def test_an_invalid_configuration_is_rejected_in_one_line(
    command: str, text: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / ".hydra" / "config.yaml").write_text(text)
    assert "config.yaml: not " in refused(capsys, command, str(run))


def test_yaml_with_aliases_that_do_not_multiply_is_read(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: &a [1, 2]\nb: *a\nc: {<<: {x: 1}, y: *a}\n")
    assert read_config(tmp_path) == {"a": [1, 2], "b": [1, 2], "c": {"x": 1, "y": [1, 2]}}


SHELLS = [
    "torch.utils.collect_env.run",
    "subprocess.Popen",
    "builtins.eval",
    "torch.save",
    "os.system",
    "strangers_own.Net",
]


@pytest.mark.parametrize("target", SHELLS)
@pytest.mark.parametrize("role", ["model", "data", "optim", "schedule", "module", "logger", "callbacks"])
def test_a_run_folder_names_no_class_that_was_not_allowed(
    role: str, target: str, run: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ALEXNET_EXP_ALLOW", raising=False)
    Path("strangers_own.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    node = {"_target_": target, "command": f"touch {canary}", "args": f"touch {canary}"}
    set_config(run, **{role: {"x": node} if role in ("logger", "callbacks") else node}, allow=["strangers_own", "os"])
    capsys.readouterr()
    assert main(["resume", str(run), "trainer.max_epochs=3"]) == 2
    assert f"package {target.partition('.')[0]} is not allowed" in capsys.readouterr().err
    assert "strangers_own" not in sys.modules


def test_a_network_in_a_checkpoints_card_is_held_to_the_same(
    run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["alexnet_exp"]["model"] = {"_target_": "torch.utils.collect_env.run", "command": f"touch {canary}"}
    torch.save(content, file)
    checksum.write(file)
    set_config(run, model={})
    told = refused(capsys, "export", str(run), "--format", "safetensors")
    assert "package torch is not allowed" in told


# --- links


@pytest.mark.parametrize(
    "name", [".lock", "train.log", "metrics.csv", "steps.csv", "checkpoints", ".hydra/config.yaml"]
)
def test_nothing_is_written_through_a_symlink_to_the_outside(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A .lock would be truncated, a train.log appended to."""
    victim = Path("victim")
    if name == "checkpoints":
        shutil.move(run / name, victim)
    else:
        victim.write_text((run / name).read_text() if (run / name).exists() else "precious")
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim.resolve())
    before = sorted((str(file), file.stat().st_size) for file in (victim, *victim.glob("*")))
    for command in (["resume", str(run), "trainer.max_epochs=3"], ["eval", str(run)], ["plot", str(run)]):
        assert refused(capsys, *command).startswith(f"{run / name}: symlink pointing outside the run folder")
    assert sorted((str(file), file.stat().st_size) for file in (victim, *victim.glob("*"))) == before


def test_symlinks_within_the_folder_are_accepted(run: Path) -> None:
    (run / "checkpoints" / "chosen.ckpt").symlink_to("best.ckpt")
    Path("other").symlink_to(run)
    assert main(["runs", "show", "other"]) == 0


def test_pipes_are_not_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / ".lock").unlink(missing_ok=True)
    os.mkfifo(run / ".lock")
    assert "neither a file nor a folder" in refused(capsys, "resume", str(run))


# --- a sweep's folder


def search_folder(*command: str, cwd: str | None = None) -> Path:
    folder = Path("outputs/train/s")
    SweepPlan(folder, list(command), cwd or str(Path.cwd()), "val/top1", "search").write()
    return folder


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=evil.Callback",
        "hydra.sweeper._target_=evil.Callback",
        "hydra.launcher._target_=evil.Callback",
        "hydra.sweeper.storage=sqlite:////tmp/elsewhere.db",
        "hydra/launcher=submitit_local",
        "hydra.launcher.setup=['touch canary']",
        "hydra.launcher.additional_parameters={wrap: 'touch canary'}",
        'hydra.launcher.partition="a\ntouch canary"',
        "hydra.job.env_set.LD_PRELOAD=evil.so",
        "hydra.job.chdir=true",
        "hydra.searchpath=[file:///tmp/evil]",
        "hydra.run.dir=/tmp/elsewhere",
        "+model@hydra.callbacks.x=lrn",
        "model=../../../tmp/evil",
        "model=lrn,../../../tmp/evil",
        "hydra.sweeper.params.hydra.job.chdir=true",
        "hydra.sweeper.params.model='lrn,../../evil'",
        "note=${oc.env:HOME}",
        "--config-dir=mine",
        "--config-dir",
        "--allow=evil",
        "--experimental-rerun=x.pickle",
        "-cd",
    ],
)
def test_a_search_folder_may_only_contain_known_settings(
    word: str, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Callback:\n    pass\n")
    folder = search_folder("hydra/sweeper=optuna", "optim.lr=interval(0.001,0.1)", word, "-m")
    told = refused(capsys, "resume", str(folder))
    assert told.startswith(f"{folder}/sweep.json: its command contains ")
    assert "evil" not in sys.modules
    assert sorted(path.name for path in folder.iterdir()) == ["sweep.json"]


def test_a_search_is_resumed_only_in_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the folder would choose which code and data a relative path means."""
    monkeypatch.chdir(tmp_path)
    folder = search_folder("hydra/sweeper=optuna", "optim.lr=interval(0.001,0.1)", "-m", cwd="/")
    assert "the search was started in /;" in refused(capsys, "resume", str(folder))


def test_a_search_of_the_user_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gets as far as the search itself, which refuses a sampler that there is not."""
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    space = ["model=lrn,bn", "optim.lr=interval(0.001,0.1)"]
    folder = search_folder("hydra/sweeper=optuna", *space, "trainer=cpu", "hydra.sweeper.sampler=no_such", "-m")
    assert "hydra.sweeper.sampler=no_such" in refused(capsys, "resume", str(folder))


@pytest.mark.parametrize("place", ["../../elsewhere", "/tmp", "..", "", "a/b"])
def test_a_job_folder_must_be_inside_its_sweep(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = search_folder()
    stored = json.loads((folder / "sweep.json").read_text())
    stored |= {"kind": "grid", "jobs": [{"number": 1, "folder": place, "overrides": [], "varies": {}}]}
    (folder / "sweep.json").write_text(json.dumps(stored))
    assert "is not a folder of the sweep" in refused(capsys, "resume", str(folder))
    (folder / "sweep.json").write_text("[" * 100_000)
    assert "not the plan of a sweep" in refused(capsys, "resume", str(folder))


def test_a_foreign_lock_file_ends_no_process(run: Path) -> None:
    """The lock names a process of this machine, as a lock of our own would."""
    from alexnet_exp.sweep.execute.job_lock import JobLocks, _machine, _start_of_process

    victim = subprocess.Popen(["sleep", "600"])
    try:
        plan = SweepPlan.read(search_folder())
        plan.kind = "grid"
        folder = plan.folder / "job"
        shutil.copytree(run, folder)
        from alexnet_exp.runs.sweep_plan import Job

        plan.jobs = [Job(1, folder, ())]
        plan.write()
        with JobLocks(plan.folder).exclusive():
            owner = {"host": "here", "machine": _machine(), "pid": victim.pid, "start": _start_of_process(victim.pid)}
            owner |= {"scheduler": "slurm:--help", "restarts": 0, "queued": False, "token": "x"}
            (plan.folder / "claims" / "job.json").write_text(json.dumps(owner))
        assert main(["resume", str(plan.folder)]) == 0
        assert main(["sweep", "work", str(plan.folder)]) == 0
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_command_to_be_copied_has_nothing_of_hydras_from_a_run() -> None:
    def of(*overrides: str) -> Run:
        return Run(Path("x"), "x", "done", {}, {}, facts={"overrides": list(overrides)})

    assert read_overrides(of("model=lrn", "~callbacks")) == {"model": "model=lrn", "callbacks": "~callbacks"}
    for word in ("--allow=evil", "hydra.job.chdir=true", "+hydra.callbacks.x._target_=evil.X", "-m"):
        assert read_overrides(of("model=lrn", word)) is None


# --- what is shown


def hostile(run: Path) -> None:
    file = run / "result.json"
    result = json.loads(file.read_text())
    result |= {"note": ESCAPE, "status": "failed", "error": f"bad {ESCAPE}", "tags": [ESCAPE], "name": ESCAPE}
    result["metrics"] = {f"val/{ESCAPE}": 1.0, **result["metrics"]}
    result["config"] |= {"note": ESCAPE, ESCAPE: 1}
    result["overrides"] = [f"note={ESCAPE}"]
    file.write_text(json.dumps(result))


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["runs", "--format", "markdown"],
        ["runs", "--format", "csv"],
        ["runs", "--format", "json"],
        ["runs", "show", "{run}"],
        ["runs", "diff", "{run}", "{other}"],
        ["compare"],
        ["compare", "--format", "markdown"],
        ["compare", "--format", "csv"],
        ["compare", "--format", "json"],
        ["compare", "--columns", "run,note"],
    ],
)
def test_no_escape_of_a_run_reaches_the_terminal(
    command: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run.with_name(f"b{ESCAPE.replace('/', '')}")
    shutil.copytree(run, other)
    shutil.copytree(run, run.with_name("c"))
    hostile(other)
    main([word.format(run=run, other=other) for word in command])
    out, err = capsys.readouterr()
    assert out
    for sign in "\x1b\x07\x9b":
        assert sign not in out + err


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ["eval", "{run}"],
        ["eval", "{run}", "{other}"],
        ["plot", "{run}", "--only", "curves"],
        ["export", "{run}", "--format", "safetensors"],
        ["predict", "{run}", "{image}"],
        ["resume", "{run}"],
        ["resume", "{run}", "trainer.max_epochs=3"],
        ["compare", "{csv}", "--columns", "run,note"],
        ["compare", "--html", "{html}"],
    ],
)
def test_no_escape_in_the_name_of_a_file_or_folder_reaches_the_terminal(
    command: list[str],
    terminal: bool,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = ESCAPE.replace("/", "")
    places = {kind: tmp_path / f"{name}{kind}" for kind in ("run", "other", "image", "csv", "html")}
    shutil.copytree(run, places["run"])
    shutil.copytree(run, places["other"])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(places["image"], format="PNG")
    places["csv"] = places["csv"].with_suffix(".csv")
    places["csv"].write_text(f"net,note,test/top1\n{name},{name},0.5\nb,c,0.6\n")
    capsys.readouterr()
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "dumb")  # rich writes no colours of its own
    assert main([word.format(**places) for word in command]) == 0
    out, err = capsys.readouterr()
    assert out + err
    for sign in "\x1b\x07\x9b":
        assert sign not in out + err


def test_no_escape_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path)
    logging.getLogger("alexnet_exp").info(f"2 images of {ESCAPE}")
    logs.append_line(tmp_path, "ERROR", ESCAPE)
    assert "\\x1b" in capsys.readouterr().err
    assert "\x1b" not in (tmp_path / "train.log").read_text()
    logs.configure(None)


# Of what these print nothing comes from a file or a run.
FROM_INSIDE = {
    "__main__.py": ("_help(", "f'alexnet_exp {__version__}'", "f'{line} (", "f'out of memory"),
    "bench.py": ("'\\n'.join(lines(found))",),
    "check.py": ("one_batch(config)",),
    "complete.py": ("' '.join(",),  # read by the shell
    "output.py": ("'Next steps",),
    "pictures.py": ("f'{doing}: about",),
    "ranks.py": ("f'{given} in the environment",),
    "report.py": ("'Next steps",),
    "runs.py": ("f'{len(lines) - len(newest):,} older", "text.markdown_table(", "'\\n'.join(terminal.aligned("),
    "summary.py": ("'\\n'.join(", "_own("),
    "sweep.py": ("'python -m alexnet_exp",),
    "child_task.py": ("text",),
}


def test_whatever_is_printed_is_escaped_first() -> None:
    """Of each argument that is no constant: by one of these, or it is of the set above."""
    escaping = {"escape_controls", "one_line", "error_text", "dumps", "_steps"}
    for file, _, call in calls():
        if not (isinstance(call.func, ast.Name) and call.func.id == "print"):
            continue
        inside = {ast.unparse(each.func).split(".")[-1] for each in ast.walk(call) if isinstance(each, ast.Call)}
        said = ast.unparse(call.args[0]) if call.args else ""
        constant = all(isinstance(argument, ast.Constant) for argument in call.args)
        ours = said.startswith(FROM_INSIDE.get(file, ()))
        assert constant or ours or inside & escaping, (file, said)


def test_an_error_has_no_escape_either(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\\x1b" in refused(capsys, "eval", f"no{ESCAPE}")


def test_a_csv_file_has_no_formula_of_a_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "result.json"
    result = json.loads(file.read_text())
    result["config"]["note"] = "=cmd|'/c calc'!A1"
    file.write_text(json.dumps(result))
    capsys.readouterr()
    assert main(["compare", "--format", "csv", "--columns", "run,note"]) == 0
    assert "'=cmd|" in capsys.readouterr().out


# --- the network


def sockets(pid: int) -> dict[str, str]:
    """By inode: what listens in the network of process `pid`, and where."""
    found = {}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if kind.startswith("udp") or fields[3] == "0A":
                found[fields[9]] = f"{kind} {fields[1].partition(':')[0]}"
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & 0x10000:
            found[fields[6]] = f"unix {' '.join(fields[7:])}"
    return found


def family(pid: int) -> list[int]:
    pids = [pid]
    for each in pids:
        for task in Path(f"/proc/{each}/task").glob("*"):
            pids += map(int, (task / "children").read_text().split())
    return pids


def listening(command: list[str], folder: Path) -> set[str]:
    """All that the processes of a command have listened on, looked at until it has ended."""
    seen: set[str] = set()
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), NATIVE_VARIABLE: "0"}
    log = folder / "said"
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
    try:
        while process.poll() is None:
            try:
                there = sockets(process.pid)
                for pid in family(process.pid):
                    for link in Path(f"/proc/{pid}/fd").iterdir():
                        inode = str(link.readlink()).removeprefix("socket:[").rstrip("]")
                        seen |= {there[inode]} if inode in there else set()
            except OSError:  # a process has just ended
                pass
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, log.read_text()
    return seen


NETWORK = pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="no /proc/net here")
RANKS = ["trainer.gpus=null", "trainer.accelerator=cpu", "trainer.devices=2"]
ONE = ["trainer.max_epochs=1", "trainer=cpu", "model.width=0.05", "data.subset=96"]


@NETWORK
@pytest.mark.slow
@pytest.mark.parametrize("more", [["data.workers=2"], ["logger=[csv,tensorboard,mlflow]"]])
def test_a_run_listens_on_nothing(more: list[str], tmp_path: Path) -> None:
    if "mlflow" in more[0]:
        pytest.importorskip("mlflow")
    found = listening([sys.executable, "-m", "alexnet_exp", *ONE, *more], tmp_path)
    assert {each for each in found if not each.startswith("unix /tmp/pymp-")} == set()


@NETWORK
@pytest.mark.slow
def test_a_sweep_listens_on_a_file_of_its_own_folder_only(tmp_path: Path) -> None:
    """That of Python's fork server, in a folder that only this user may enter."""
    command = [sys.executable, "-m", "alexnet_exp", "-m", "seed=1,2", *ONE, "hydra.launcher.jobs=2"]
    found = listening(command, tmp_path)
    assert found
    assert all(each.startswith("unix ") and "/pymp-" in each for each in found), found


@NETWORK
@pytest.mark.slow
@pytest.mark.parametrize(
    "named",
    [False, True],
)
def test_ranks_of_one_machine_use_only_its_loopback_interface(named: bool, tmp_path: Path) -> None:
    """gloo listens where the host's name leads, which on most machines is their network."""
    command = [sys.executable, "-m", "alexnet_exp", *ONE, *RANKS]
    if named:
        address = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
        apart = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', *address[:1]]
        if not address or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no network beside the loopback, or no right to name this machine")
        command = [*apart, *command]
    found = listening(command, tmp_path)
    over_tcp = {each for each in found if not each.startswith("unix ")}
    assert over_tcp == {"tcp 0100007F"}, found


def test_read_config_still_refuses_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path)
