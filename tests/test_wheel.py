"""The wheel, installed in another environment and run from an empty folder: conf/ must be inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    done = run(Path(sys.executable), *build, cwd=folder)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another environment's Python, which has the wheel and borrows the dependencies (5 GB) of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*")) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    borrowed = home / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "alexnet_exp" not in entry.name and entry.suffix != ".pth":
            (borrowed / entry.name).symlink_to(entry)
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    return home / "bin" / "python"


def test_the_wheel_contains_the_yaml_and_only_package_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    local = {name for name in shipped if name.startswith("local/")}
    inside = {name.removeprefix("alexnet_exp/conf/") for name in names if name.startswith("alexnet_exp/conf/")}
    assert {name for name in inside if name.endswith(".yaml")} == shipped - local
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} <= {"alexnet_exp", "hydra_plugins"}
    assert "alexnet_exp/py.typed" in names, "type checkers ignore the annotations of a package without it"
    report = ROOT / "alexnet_exp" / "compare" / "render" / "html"
    parts = {path.relative_to(ROOT).as_posix() for kind in ("html", "js", "css") for path in report.rglob(f"*.{kind}")}
    assert len(parts) > 20
    assert parts <= set(names)


def test_it_runs_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import alexnet_exp; print(alexnet_exp.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(python.parents[1]), where.stderr
    small = ("model.width=0.05", "data.subset=64", "trainer.max_epochs=1", "checkpoint.keep=none")
    done = run(python, "-m", "alexnet_exp", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["status"] == "done"
    assert (tmp_path / said["run"] / "metrics.csv").exists()


def test_a_sweep_runs_and_is_compared(python: Path, tmp_path: Path) -> None:
    small = ("model.width=0.05", "data.subset=64", "trainer.max_epochs=1", "checkpoint.keep=none")
    done = run(python, "-m", "alexnet_exp", "-m", *small, "seed=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sweep = json.loads(done.stdout)["sweep"]
    compared = run(python, "-m", "alexnet_exp", "compare", sweep, "--html", "report.html", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_users_yaml_is_added_by_config_dir(python: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\nname: tiny\nmodel: {width: 0.05}\n"
    )
    done = run(python, "-m", "alexnet_exp", "--config-dir", "mine", "experiment=tiny", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "name: tiny" in done.stdout
