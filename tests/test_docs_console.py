"""The console blocks of README.md and docs/ show the current output.

Every block is executed, in one process and one working directory, except those that tests/docs_not_executed.txt lists.
Of a training the lines before its first step are compared; of the others only the words
(`test_training_output_has_current_words`).

    pytest -n 0 tests/test_docs_console.py --update-pages

rewrites the pages with the current output. Lines that differ only in parts that depend on the machine stay.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from alexnet_exp.__main__ import COMMANDS, main
from alexnet_exp.cli.arguments import command_of
from alexnet_exp.cli.output import print_result
from alexnet_exp.config.hydra_session import hydra_session
from alexnet_exp.paths import groups
from alexnet_exp.sweep.plan.folder import select_folder
from alexnet_exp.training import trainer
from tests import devkit
from tests.conftest import Run, train_into
from tests.pages import NOT_EXECUTED, PAGES, ROOT, Block, console, files, not_executed, pattern, rewrite, updated_lines

RUN_FOLDER = ROOT / "docs" / "reference" / "run-folder.md"
DEMO_RUN = "2026-11-24_20-45-47-149881"
PROGRAM = ["python", "-m", "alexnet_exp"]
ON_TERMINAL = "loading PyTorch and Lightning"  # printed only there
FIRST_STEP = re.compile(r"(seed \d+;|ok: |epoch |test: |failed: |\d+/\d+ |\{|\(exit code 1\))")
# What depends on the machine and the day, and what is put in its place on both sides.
MASKS = [
    (re.compile(r"(?<=^ok: ).+ on .+?, \d+ threads?, precision \S+, loss [\d.]+"), "~"),
    (re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}"), "TIME"),
    (re.compile(r"(?<=: )-?\d+\.\d+(e-?\d+)?(?=[,}])"), "~"),  # measured, in JSON
    (re.compile(r"\d[\d,.]* (?:MB|GB) free\b"), "~ free"),
]
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
# The parts of the line `seed 1; ...` that depend on the machine, or on the strategy.
MACHINE_PARTS = re.compile(r".*, \d+ threads?|precision .*|channels_last|kernels.*|two columns, .*")


def arguments_of(command: str) -> list[str] | None:
    """The arguments of `python -m alexnet_exp`; None for other programs and where the shell is needed."""
    on_terminal = re.fullmatch(r'script -qec "(.*)" /dev/null', command)
    lexer = shlex.shlex(on_terminal[1] if on_terminal else command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    if words[:3] != PROGRAM or any(set(word) <= set("();<>|&") for word in words):
        return None
    return words[3:]


def fails(block: Block) -> bool:
    """Whether the page shows an error instead of a result."""
    return block.shown.endswith(("(exit code 1)\n", "(exit code 2)\n"))


def trains(block: Block) -> bool:
    """Whether the block trains, or checks what comes before that, and only its first lines are compared."""
    words = arguments_of(block.command)
    if words is None or fails(block) or {"--help", "--cfg", "--version"} & set(words):
        return False
    return command_of(words, COMMANDS)[0] in ("train", "check")


def output_of(block: Block) -> str:
    """The output of a block's command; of a training that of `check` with the same arguments."""
    words = arguments_of(block.command)
    if words is None:
        return output_of_other_program(block)
    command, rest = command_of(words, COMMANDS)
    if command == "train" and trains(block):
        words = ["check", *rest]
    os.environ["ALEXNET_EXP_ALLOW"] = ""  # nothing of an earlier command is allowed or imported
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_alexnet", "tinylab")]:
        del sys.modules[name]
    output = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    with redirect_stdout(output), redirect_stderr(output):
        code = main(words)
    output.seek(0)
    return output.read() + (f"(exit code {code})\n" if code else "")


def output_of_other_program(block: Block) -> str:
    """The output of `cat FILE`, which also writes the file, of `python FILE`, and of tools such as `ls`."""
    program, *arguments = shlex.split(block.command)
    if program == "cat" and not (file := Path(arguments[0])).exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.shown)
    if program == "python":
        output = io.StringIO()
        with redirect_stdout(output):
            runpy.run_path(arguments[0], run_name="__main__")
        return output.getvalue()
    return subprocess.run(["bash", "-c", block.command], capture_output=True, text=True, check=True).stdout


def compared_lines(text: str, block: Block) -> list[str]:
    """The lines of a page or of an output that are compared; of a training those before its first step."""
    lines = [line for line in text.splitlines() if line != ON_TERMINAL]
    if trains(block):
        ends = (place for place, line in enumerate(lines) if FIRST_STEP.match(line))
        lines = lines[: next(ends, len(lines))]
    return lines


def masked(line: str) -> str:
    for mask, instead in MASKS:
        line = mask.sub(instead, line)
    return line


def is_shown(block: Block, today: list[str]) -> bool:
    """Whether the page shows these lines, but for what depends on the machine."""
    wanted = pattern("".join(f"{masked(line)}\n" for line in compared_lines(block.shown, block)))
    return bool(re.fullmatch(wanted, "".join(f"{masked(line)}\n" for line in today)))


def make_images(folder: Path, count: int, kind: str = "png") -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (32, 32), (number % 256, 100, 200)).save(folder / f"{number:04d}.{kind}")


def make_inputs() -> None:
    """The folders of images and of runs that the pages name."""
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
    with tarfile.open(ROOT / "tests" / "docs_norms.tar.xz") as archive:  # the sweep of docs/guides/comparing.md
        archive.extractall("outputs", filter="data")
    make_imagenet()
    make_claims()
    for name in ("before", "after", "other"):
        steps = [f"{step},{3 - step / 50 + (name == 'other' and step == 2)},0.002\n" for step in range(1, 45)]
        Path(name).mkdir()
        Path(name, "result.json").write_text('{"status": "done"}')
        Path(name, "steps.csv").write_text("step,loss,lr\n" + "".join(steps))
    make_runs_of_another_project()
    shutil.copytree(ROOT / "examples" / "my_alexnet", "my_alexnet", ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in files(ROOT / "docs" / "guides" / "extend.md").items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)


def make_imagenet() -> None:
    """Of 200 classes: one folder with archives that are still packed, one with a loose image, a damaged kit."""
    classes = ["n01494475", "n01532829", "n01616318", *(f"n{number:08d}" for number in range(2000000, 2000197))]
    Path("imagenet/train").mkdir(parents=True)
    Path("loose/val").mkdir(parents=True)
    make_images(Path("picture"), 1)
    picture = Path("picture/0000.png").read_bytes()
    for name in classes:
        Path(f"imagenet/train/{name}.tar").touch()
        Path("loose/train", name).mkdir(parents=True)
        Path("loose/train", name, "1.JPEG").write_bytes(picture)
    Path("loose/val/cat.jpg").write_bytes(picture)
    devkit.as_folder(Path("loose"), devkit.meta([(name, name) for name in classes], 1), devkit.truth(range(1, 201)))
    Path("cut.tar.gz").write_bytes(gzip.compress(bytes(10_000))[:20])


def make_claims() -> None:
    """A copy of the sweep's runs with and without LRN, whose experiment states what the paper claims."""
    points = (("top1", "1.4", -0.014), ("top5", "1.2", -0.012))
    claims = [
        {
            "text": f"without LRN the top-{metric[3]} error is {printed} points higher",
            "source": "section 3.3",
            "metric": f"test/{metric}",
            "arm": "model.norm=none",
            "against": "model.norm=lrn",
            "difference": difference,
            "analogue": True,
        }
        for metric, printed, difference in points
    ]
    for run in [run for name in ("lrn", "none") for run in Path("outputs/norms").glob(f"*/model-{name}_*")]:
        copy = Path("outputs/lrn", run.name.removeprefix("model-"))
        shutil.copytree(run, copy)
        result = json.loads((copy / "result.json").read_text())
        result["paper_claim"] = claims
        (copy / "result.json").write_text(json.dumps(result))


def make_runs_of_another_project() -> None:
    """Two networks and three seeds, as the usual template of Lightning and Hydra writes them."""
    for number in range(6):
        model, seed = ("mnist", "mnist_wide")[number // 3], number % 3 + 1
        accuracy = 0.942 + 0.0175 * (number // 3) + 0.002 * (seed - 2) + 0.0011 * (number == 4)
        run = Path("logs/train/multiruns/2026-11-24_10-00-00", str(number))
        (run / ".hydra").mkdir(parents=True)
        (run / "csv/version_0").mkdir(parents=True)
        (run / ".hydra/config.yaml").write_text(f"seed: {seed}\nmodel: {{hidden: {64 * (1 + number // 3)}}}\n")
        (run / ".hydra/hydra.yaml").write_text(f"hydra:\n  runtime:\n    choices:\n      model: {model}\n")
        table = f"epoch,step,val/acc,test/acc\n0,10,{accuracy + 0.001:.4f},\n1,20,,{accuracy:.4f}\n"
        (run / "csv/version_0/metrics.csv").write_text(table)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the default network, on the device that is chosen by itself."""
    settings = ("model.width=0.25", "trainer.max_epochs=1", "trainer.gpus=null", "trainer.precision=auto")
    run = train_into(tmp_path_factory.mktemp("docs") / "demo", *settings)
    assert run.code == 0
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, demo: Run) -> Iterator[Path]:
    """A working directory for all pages, with what they name and one run, called demo."""
    path = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("TZ", "UTC")
        time.tzset()
        shutil.copytree(demo.path, path / "outputs" / "demo" / DEMO_RUN)
        make_inputs()
        yield path
    time.tzset()


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the run as the newest; nothing is downloaded, and `check` does not train."""
    (place / "outputs" / "latest").unlink(missing_ok=True)
    (place / "outputs" / "latest").symlink_to(f"demo/{DEMO_RUN}")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "")  # and it is what it was after the test
    monkeypatch.setenv("KERAS_HOME", str(place / "keras"))
    monkeypatch.setattr(yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # faster
    monkeypatch.setattr(trainer, "build_trainer", lambda *_, **__: SimpleNamespace(fit=lambda *_, **__: None))
    return place


@pytest.fixture(scope="module")
def outputs() -> dict[str, str]:
    """What has been printed so far, by the command: both tutorials show the same."""
    return {}


EXECUTED = [page for page in PAGES if any(block.place not in not_executed() for block in console(page))]


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_shows_current_output(
    page: Path, folder: Path, outputs: dict[str, str], pytestconfig: pytest.Config
) -> None:
    found, broken, changes = [], [], []
    for block in console(page):
        if block.place in not_executed() or ("no CUDA GPU" in block.shown and torch.cuda.is_available()):
            continue
        if block.command not in outputs:
            outputs[block.command] = output_of(block)
        text = outputs[block.command]
        today = compared_lines(text, block)
        is_broken = text.endswith("(exit code 2)\n") and not fails(block)
        if is_broken or not is_shown(block, today):
            difference = f"{page.name}:{block.line}: {block.command}\n--- the page\n{block.shown}--- today\n{text}"
            (broken if is_broken else found).append(difference)
        if not is_broken and not is_shown(block, today):
            shown = compared_lines(block.shown, block)
            others = block.shown.splitlines()[len(shown) :]
            changes.append(
                (block, updated_lines(shown, today, {line: masked(line) for line in (*shown, *today)}) + others)
            )
    if pytestconfig.getoption("update_pages"):
        rewrite(page, changes)
        found = []
    assert not broken + found, "\n".join(broken + found)


def test_every_block_is_executed_or_listed() -> None:
    places = {block.place for page in PAGES for block in console(page)}
    assert sorted(set(not_executed()) - places) == [], f"{NOT_EXECUTED.name} lists blocks that no page has"
    assert all(not_executed().values())


def without_numbers(line: str) -> str:
    """A line without its numbers, paths and spaces: its words."""
    return " ".join(NUMBER.sub("#", re.sub(r"outputs/\S+|^\w+(?=: done)", "PATH", line)).split())


def test_training_output_has_current_words(demo: Run, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines from the first step on, whose numbers are another machine's: only their words are compared."""
    log = [re.sub(r"^\S+ \S+ [A-Z]+ ", "", line) for line in demo.log.splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout.isatty", lambda: True)
        print_result(place / "outputs" / "demo" / DEMO_RUN, 0)
    table = capsys.readouterr().out.splitlines()
    (device,) = (line.split("; ") for line in log if line.startswith("seed "))
    words = {without_numbers(line) for line in (*log, *table)}
    words |= {line.replace("best checkpoint", "last checkpoint") for line in words}
    found = []
    for block in (block for page in PAGES for block in console(page) if trains(block)):
        if "-m" in block.command.split()[3:]:
            continue
        lines = [line for line in block.shown.splitlines() if line != ON_TERMINAL]
        for line in lines[len(compared_lines(block.shown, block)) :]:
            if line.startswith("seed "):
                parts = [part for part in line.split("; ")[1:] if not MACHINE_PARTS.fullmatch(part)]
                is_known = set(parts) <= set(device)
            else:
                text = without_numbers(line).replace(" from # views, # from the centre", "")
                is_known = text in words or not re.search("[a-z]", text) or bool(re.match(r"\{|ok: ", line))
            if not is_known and "..." not in line:
                found.append(f"{block.page.name}:{block.line}: {line}")
    assert not found, "\n".join(found)


def test_update_keeps_lines_that_differ_only_by_machine() -> None:
    shown = ["ok: AlexNet on AMD EPYC, 1 thread, precision 32-true, loss 2.5 on one batch", "...", "a b c ..."]
    shown += ["last line ... with the old word"]
    today = [
        "ok: AlexNet on Intel, 2 threads, precision bf16-mixed, loss 2.4 on one batch",
        *("one", "two", "a b d and so on", "inserted", "last line of all with the new word"),
    ]
    new = updated_lines(shown, today, {line: masked(line) for line in (*shown, *today)})
    assert new == [shown[0], "...", "a b d ...", "inserted", "last line ... with the new word"]
    assert updated_lines(new, today, {line: masked(line) for line in (*new, *today)}) == new


def test_output_is_compared_line_by_line() -> None:
    block = Block(Path(), 1, "python -m alexnet_exp summary", "width 0.25\n...\na ... c\n")
    today = ["width 0.25", "1", "2", "a b c"]
    assert is_shown(block, today)
    for other in (["width 0.5", *today[1:]], [*today, "d"], today[:-1]):
        assert not is_shown(block, other)


def shown_below(page: str, command: str) -> str:
    """What a page shows below the command that contains `command`."""
    (found,) = (block.shown for block in console(ROOT / "docs" / "reference" / page) if command in block.command)
    return found


def test_run_folder_page_lists_files_and_keys_of_a_run(folder: Path) -> None:
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


def test_pages_list_metrics_in_the_order_of_a_run(demo: Run) -> None:
    metric = re.compile(r'"((?:train|val|test)/\w+)": ')
    names = list(demo.result["metrics"])
    for page in (ROOT / "docs").rglob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"run": ') and '"status": "done"' in line:
                found = metric.findall(line)  # without validation those of val/ are missing
                assert found == [name for name in names if name in found], (page.name, line)


def test_configuration_tables_list_every_option() -> None:
    pages = [ROOT / "docs" / "reference" / f"{name}.md" for name in ("configuration", "optimizer")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    options = groups()
    overview = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text.partition("in no group")[0], re.MULTILINE))
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
def test_pages_compare_the_sweeps_they_run(page: str) -> None:
    """The folder that is named for `compare` is that of the sweep above it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (sweep,) = re.findall(r"^    python -m alexnet_exp -m (experiment=.*? seed=1,2,3)", text, re.MULTILINE)
    (named,) = re.findall(r"^    python -m alexnet_exp compare (\S+\*) --baseline", text, re.MULTILINE)
    with hydra_session(sweep.split(), None, sweep=True) as session:
        assert select_folder(sweep.split(), None, session.config).match(named)
