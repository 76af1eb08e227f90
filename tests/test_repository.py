"""The files by which a repository is installed, built, cited and contributed to: they parse and agree with each other.

Their schemas are checked by pre-commit, which .ci/run calls.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import alexnet_exp

ROOT = Path(__file__).parents[1]
GITHUB = sorted(path for path in (ROOT / ".github").rglob("*.yml"))
YAML_FILES = [*GITHUB, ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
README_COMMAND = "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && python -m alexnet_exp"


def read_yaml(*parts: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    content: dict[str, Any] = read_yaml(".github", "workflows", "ci.yml")["jobs"]
    return content


@pytest.fixture(scope="module")
def dockerfile() -> list[list[str]]:
    """The instructions, each as its name and its arguments."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [line.split(maxsplit=1) for line in lines]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_file_is_a_mapping(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_pre_commit_has_a_schema_for_every_github_file_and_the_citation() -> None:
    hooks = read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]
    patterns = [hook["files"] for hook in hooks if hook["entry"].startswith("check-jsonschema ")]
    names = [path.relative_to(ROOT).as_posix() for path in (*GITHUB, ROOT / "CITATION.cff")]
    assert [name for name in names if not any(re.search(pattern, name) for pattern in patterns)] == []


def test_ci_runs_the_hooks_of_pre_commit() -> None:
    assert "pre-commit run --all-files" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_workflow_reads_only_and_pins_its_actions() -> None:
    for path in (ROOT / ".github" / "workflows").iterdir():
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        assert workflow["concurrency"]["cancel-in-progress"] is True
        assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())
        uses = re.findall(r"uses: (.*)", text)
        assert uses
        assert [line for line in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_linux_workflow_calls_the_ci_script(jobs: dict[str, Any]) -> None:
    assert [step["run"] for step in jobs["linux"]["steps"] if "run" in step] == ["bash .ci/run"]


def test_macos_workflow_tests_folders_that_exist(jobs: dict[str, Any]) -> None:
    commands = [step["run"] for step in jobs["macos"]["steps"] if "run" in step]
    folders = next(shlex.split(command)[1:] for command in commands if command.startswith("pytest "))
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_python_versions_agree(project: dict[str, Any], jobs: dict[str, Any], dockerfile: list[list[str]]) -> None:
    prefix = "Programming Language :: Python :: "
    classified = [
        line.removeprefix(prefix) for line in project["classifiers"] if re.fullmatch(prefix + r"\d\.\d+", line)
    ]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == classified
    lower, upper = re.fullmatch(r">=3\.(\d+)\.\d+,<3\.(\d+)", project["requires-python"]).groups()  # type: ignore[union-attr]
    assert classified == [f"3.{minor}" for minor in range(int(lower), int(upper))]
    assert {prefix + version for version in classified} <= set(metadata.metadata("torch").get_all("Classifier", []))
    assert dict(dockerfile)["FROM"].startswith(f"python:{classified[-1]}-")
    devcontainer = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert f"-{classified[-1]}-" in devcontainer["image"]


def test_citation_agrees_with_the_package(project: dict[str, Any]) -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == alexnet_exp.__version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]


def test_docker_image_runs_the_readmes_first_command(dockerfile: list[list[str]]) -> None:
    assert f"    {README_COMMAND}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    install = next(argument for name, argument in dockerfile if name == "RUN" and "pip install" in argument)
    start = next(argument for name, argument in dockerfile if name == "ENTRYPOINT")
    assert f"{install} && {' '.join(json.loads(start))}" == README_COMMAND


def test_docker_copies_files_that_exist_and_are_not_ignored(dockerfile: list[list[str]]) -> None:
    copies = [argument.split() for name, argument in dockerfile if name == "COPY"]
    sources = [word for words in copies for word in words[:-1] if not word.startswith("--")]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(sources)


def test_docker_copies_everything_that_the_wheel_contains(dockerfile: list[list[str]]) -> None:
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    copied = {word for name, argument in dockerfile if name == "COPY" for word in argument.split()}
    assert set(hatch["targets"]["wheel"]["only-include"]) <= copied


def test_devcontainer_runs_the_readmes_first_command() -> None:
    content = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert content["onCreateCommand"] == README_COMMAND
    assert "pip install -e '.[dev]'" in content["updateContentCommand"]


def test_package_is_marked_as_typed() -> None:
    assert (ROOT / "alexnet_exp" / "py.typed").read_bytes() == b""
