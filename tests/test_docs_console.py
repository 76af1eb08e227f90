"""What a page shows below a command is what the program prints.

Every command that is cheap is run, in one process: helps, configurations, summaries, refusals, `eval` of a tiny run. Of
a training or a `check` the lines before the first step are compared, of a run's results the names. Not run are pipes,
sweeps, and commands that need images, runs or packages that are not here (docs/guides/extend.md has a test of its own).
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from alexnet_exp.__main__ import COMMANDS, main
from alexnet_exp.cli.arguments import command_of
from alexnet_exp.config.compose import settings_of_hydra
from alexnet_exp.paths import groups
from alexnet_exp.sweep.plan.folder import choose
from alexnet_exp.training import trainer
from tests.conftest import Run, train_into
from tests.pages import ROOT, Block, console

OF_ITS_OWN = ROOT / "docs" / "guides" / "extend.md"  # tests/test_extend_page.py
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page != OF_ITS_OWN]
RUN_FOLDER = ROOT / "docs" / "reference" / "run-folder.md"
RUN = "2026-11-24_20-45-47-149881"
PROGRAM = ["python", "-m", "alexnet_exp"]
ON_TERMINAL = "loading PyTorch and Lightning"  # printed only there
BEFORE_TRAINING = re.compile(r"(seed \d+;|ok: |epoch |test: |failed: |\{|\(exit code 1\))")
# what depends on the machine and on the day; both sides are masked
MASKS = [
    (re.compile(r"^(seed \d+;|ok: \w+ on) .*"), r"\1 ~"),
    (re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}"), "TIME"),
    (re.compile(r"(?<=: )-?\d+\.\d+(e-?\d+)?(?=[,}])"), "~"),
]


def words_of(command: str) -> list[str] | None:
    """What is typed behind `python -m alexnet_exp`; None for other programs and where the shell has a part in it."""
    on_terminal = re.fullmatch(r'script -qec "(.*)" /dev/null', command)
    lexer = shlex.shlex(on_terminal[1] if on_terminal else command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    if words[:3] != PROGRAM or any(set(word) <= set("();<>|&") for word in words):
        return None
    return words[3:]


def is_refused(block: Block) -> bool:
    return block.shown.endswith("(exit code 2)\n")


def only_shows(words: list[str]) -> bool:
    return bool({"--help", "--cfg", "--version"} & set(words))


def trains(words: list[str]) -> bool:
    """Whether it trains, or does what comes before that."""
    return command_of(words, COMMANDS)[0] in ("train", "check") and not only_shows(words)


def can_run(words: list[str], block: Block) -> bool:
    """Whether it is cheap, its output is shown, and all that it names is in the working directory."""
    command, rest = command_of(words, COMMANDS)
    named = [word.partition("=")[2] for word in rest if re.match(r"data\.(root|devkit)=|model\.weights=.*\.", word)]
    named += [after for word, after in pairwise(rest) if word == "--config-dir"]
    if any(not Path(name).exists() for name in named if f"{name}: there is no such folder" not in block.shown):
        return False
    if not block.shown or ("no CUDA GPU" in block.shown and torch.cuda.is_available()):
        return False
    if command == "eval":
        return rest[0] in ("last", "demo")
    if command == "plot":
        return rest[0] == "schedule"
    if command == "train" and "-m" in rest:
        return is_refused(block)
    return command in ("train", "check", "summary") or only_shows(rest) or (command == "predict" and is_refused(block))


def printed(words: list[str], block: Block) -> str:
    """What the command prints; of a training what `check` prints with the same words, whose Trainer does nothing."""
    command, rest = command_of(words, COMMANDS)
    if command == "train" and trains(words) and not is_refused(block):
        words = ["check", *rest]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = main(words)
    return output.getvalue() + (f"(exit code {code})\n" if code else "")


def compared(text: str, block: Block, words: list[str]) -> str:
    """The lines that are compared, without what depends on the machine; of a training those before its first step."""
    lines = [line for line in text.splitlines() if line != ON_TERMINAL]
    if trains(words) and not is_refused(block):
        ends = (place for place, line in enumerate(lines) if BEFORE_TRAINING.match(line))
        lines = lines[: next(ends, len(lines))]
    for mask, instead in MASKS:
        lines = [mask.sub(instead, line) for line in lines]
    return "".join(f"{line}\n" for line in lines)


def pattern(shown: str) -> str:
    """A regular expression for what a page shows: `...` stands for lines, or for a part of one."""
    return "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\ \.\.\.", ".*").replace(r"\.\.\.", ".*") + r"\n"
        for line in shown.splitlines()
    )


def make_images(folder: Path, count: int, kind: str = "png") -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (32, 32), (number % 256, 100, 200)).save(folder / f"{number:04d}.{kind}")


def make_things() -> None:
    """The folders of images that docs/guides/data.md and docs/get-started/tutorial.md name."""
    for name in ("cat", "ship", "truck"):
        make_images(Path("photos/train") / name, 60)
        make_images(Path("photos/test") / name, 20)
    for folder in ("archives", "empty"):
        Path(folder).mkdir()
    make_images(Path("one/cat"), 1)
    for folder in ("bad", "heic"):
        make_images(Path(folder) / "cat", 1)
        make_images(Path(folder) / "dog", 1)
    Path("bad/cat/broken.jpg").write_bytes(b"nothing")
    Path("heic/cat/IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the default network."""
    run = train_into(tmp_path_factory.mktemp("docs") / "demo", "model.width=0.25", "trainer.max_epochs=1")
    assert run.code == 0
    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Run) -> Path:
    """A working directory with one run, called demo; nothing is downloaded and no Trainer trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # faster
    shutil.copytree(demo.path, tmp_path / "outputs" / "demo" / RUN)
    (tmp_path / "outputs" / "latest").symlink_to(f"demo/{RUN}")
    monkeypatch.setattr(trainer, "build_trainer", lambda *_, **__: SimpleNamespace(fit=lambda *_, **__: None))
    return tmp_path


def differences(page: Path, folder: Path) -> tuple[int, list[str]]:
    """How many commands of a page were run, and those that print something else than the page shows."""
    count, found = 0, []
    for block in console(page):
        if block.command.startswith("cat "):
            file = folder / block.command.removeprefix("cat ")
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.shown)
        words = words_of(block.command)
        if words is None or not can_run(words, block):
            continue
        count += 1
        text = printed(words, block)
        wanted = pattern(compared(block.shown, block, words))
        fails = "(exit code 2)" in text and not is_refused(block)
        if fails or not re.fullmatch(wanted, compared(text, block, words)):
            found.append(f"{page.name}:{block.line}: {block.command}\n--- the page\n{block.shown}--- today\n{text}")
    return count, found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_what_is_printed(page: Path, folder: Path) -> None:
    if page.name in ("data.md", "tutorial.md", "tutorial.zh.md"):
        make_things()
    count, found = differences(page, folder)
    assert not found, "\n".join(found)
    least = {"commands.md": 4, "errors.md": 14, "data.md": 11, "network.md": 6, "training.md": 5}
    assert count >= least.get(page.name, 0)


def test_what_is_shown_is_compared_line_by_line() -> None:
    shown = "width 0.25\n...\nseed 1; AMD EPYC; precision bf16-mixed\na ... c\n"
    block = Block(Path(), 1, "", shown)
    wanted = pattern(compared(shown, block, ["summary"]))
    today = "width 0.25\n1\n2\nseed 1; another processor\na b c\n"
    assert re.fullmatch(wanted, compared(today, block, ["summary"]))
    for other in (today.replace("width 0.25", "width 0.5"), today.replace("seed 1", "seed 2"), today + "d\n"):
        assert not re.fullmatch(wanted, compared(other, block, ["summary"]))


def shown_below(page: str, command: str) -> str:
    """What a page shows below the command that contains `command`."""
    (found,) = (block.shown for block in console(ROOT / "docs" / "reference" / page) if command in block.command)
    return found


def test_the_page_of_the_run_folder_has_the_files_and_names_of_a_run(folder: Path) -> None:
    run = (folder / "outputs" / "latest").resolve()
    files = {f"./{file.relative_to(run)}" for file in run.rglob("*") if file.is_file()}
    made_by_hydra = {"./.hydra/hydra.yaml", "./.hydra/overrides.yaml", "./code.patch"}
    assert set(shown_below("run-folder.md", "find . -type f").splitlines()) - made_by_hydra == files - made_by_hydra
    for command in ("cat outputs/latest/metrics.csv", "head -4 outputs/latest/steps.csv"):
        header = (folder / command.split()[-1]).read_text().splitlines()[0]
        assert shown_below("run-folder.md", command).splitlines()[0] == header
    outputs = {}
    for name in ("result.json", "test.npz"):
        (block,) = (block for block in console(RUN_FOLDER) if name in block.command)
        output = io.StringIO()
        with redirect_stdout(output):
            exec(shlex.split(block.command)[2], {})
        outputs[name] = (block.shown, output.getvalue())
    shown, today = outputs["test.npz"]
    assert shown == today
    page, run = (json.loads(text) for text in outputs["result.json"])
    of_hydra = {"overrides", "choices"}  # of what is typed
    assert [key for key in page if key not in of_hydra] == [key for key in run if key not in of_hydra]
    assert set(page) >= of_hydra
    assert list(page["metrics"]) == list(run["metrics"])
    table = re.findall(r"^\| (`.*?) \|", RUN_FOLDER.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(run) <= {name for cell in table for name in re.findall(r"`(\w+)`", cell)}


def test_results_have_their_metrics_in_the_order_of_a_run(demo: Run) -> None:
    metric = re.compile(r'"((?:train|val|test)/\w+)": ')
    names = list(demo.result["metrics"])
    for page in (ROOT / "docs").rglob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"run": ') and '"status": "done"' in line:
                found = metric.findall(line)  # without validation those of val/ are missing
                assert found == [name for name in names if name in found], (page.name, line)


def test_what_is_not_run_has_the_form_of_today() -> None:
    """Of a `check` the last line or `...`; of a run the line on device, precision and kernels."""
    device = re.compile(
        r"seed \d+; .+; precision .+; channels_last; .*native kernels.*; freed memory stays allocated to the process"
    )
    for block in (block for page in PAGES for block in console(page)):
        lines = block.shown.splitlines()
        if (words_of(block.command) or [""])[0] == "check":
            assert re.match(r"ok: |\.\.\.|\(exit code", lines[-1]), (block.page.name, block.line)
        for line in lines:
            assert not line.startswith("seed ") or device.fullmatch(line), (block.page.name, line)


def test_the_tables_of_the_configuration_page_have_every_option() -> None:
    pages = [ROOT / "docs" / "reference" / f"{name}.md" for name in ("configuration", "optimizer")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    options = groups()
    overview = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text.partition("And at the root")[0], re.MULTILINE))
    named = {group: set(re.findall(r"[\w/]+", re.sub(r"\(.*?\)", "", cell))) for group, cell in overview.items()}
    assert set(named) - {"local"} == set(options)
    for group in set(options) - {"experiment"}:
        assert named[group] == set(options[group]), group
    assert named["experiment"] - {"and", "others"} <= set(options["experiment"])
    for group in ("optim", "schedule", "callbacks", "debug"):
        table = re.findall(r"^\|.*", text.partition(f"\n## {group}\n")[2].partition("\n## ")[0], re.MULTILINE)
        cells = table[0].split("|") if group == "optim" else [line.split("|")[1] for line in table]
        names = {cell.strip(" `").rpartition("=")[2] for cell in cells} - {"", "---"}
        assert names == set(options[group]), group


@pytest.mark.parametrize("page", ["get-started/tutorial.md", "get-started/tutorial.zh.md", "background/ladder.md"])
def test_the_pages_compare_the_sweeps_that_they_run(page: str) -> None:
    """The folder that is named for `compare` is that of the sweep above it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (sweep,) = re.findall(r"^    python -m alexnet_exp -m (experiment=.*? seed=1,2,3)", text, re.MULTILINE)
    (named,) = re.findall(r"^    python -m alexnet_exp compare (\S+\*) --baseline", text, re.MULTILINE)
    assert choose(sweep.split(), None, settings_of_hydra(sweep.split(), None)).match(named)
