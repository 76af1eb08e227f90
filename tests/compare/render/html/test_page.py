"""The report as a file: its text, its data, and that text of a run is never evaluated."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alexnet_exp.compare.render.html import page, write_report
from alexnet_exp.compare.render.html.curves import POINTS_PER_LINE, read_curves
from alexnet_exp.compare.render.html.filters import breakable, unbroken
from alexnet_exp.compare.render.html.methods import methods
from alexnet_exp.compare.render.html.pictures import read_pictures
from alexnet_exp.compare.render.text import main_and_rest, markdown_table
from alexnet_exp.compare.result import Comparison, ComparisonTable
from alexnet_exp.compare.statistics import REPEATED_TEST_PERCENT
from alexnet_exp.errors import UserError
from alexnet_exp.runs.read_runs import read_runs
from tests.compare.generated import compared, write_picture, write_run, write_sweep

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!-- \u2028 ]]>"


class Page(HTMLParser):
    """The elements of the file with their attributes, and its text by the id or the tag of the element."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open = dict(attributes).get("id") or tag

    def handle_data(self, data):
        self.texts.append((self._open, data))

    @property
    def data(self):
        return json.loads(self.text("data"))

    def text(self, of):
        return "".join(text for where, text in self.texts if where == of)

    @property
    def visible(self):
        return " ".join(
            " ".join(text for where, text in self.texts if where not in ("data", "style", "script")).split()
        )


def write_page(comparison: Comparison, folder: Path) -> Page:
    write_report(comparison, folder / "report.html", command="python -m alexnet_exp compare outputs")
    return Page(folder / "report.html")


@pytest.fixture
def sweep(tmp_path):
    write_sweep(tmp_path / "outputs", pictures=1)
    return compared(tmp_path / "outputs")


def test_page_starts_with_the_finding_and_states_every_verdict_in_words(sweep, tmp_path):
    page = write_page(sweep, tmp_path)
    assert sweep.sentence in page.visible
    parts = (
        sweep.sentence,
        "Each dot is one seed",
        "Verdict",
        "Caveats",
        "Differences in detail",
        "Learning curves",
    )
    order = [page.visible.index(text) for text in parts]
    assert order == sorted(order)
    for text in (
        "▲ better",
        "? inconclusive (detectable difference: 0.61 points)",
        "= no difference above 0.50 points",
        "baseline",
    ):
        assert text in page.visible
    for line in sweep.caveats:
        assert line in page.visible
    assert "1.4 points of top-1 (section 3.3)" in page.visible
    assert "python -m alexnet_exp -m model=lrn,bn optim.lr=0.1 seed=4,5,6,7" in page.visible


def test_undefined_difference_is_shown_without_a_number(sweep, tmp_path):
    unknown = replace(sweep.differences[1], difference=float("nan"), interval=None, bound=None)
    page = write_page(replace(sweep, differences=[unknown]), tmp_path)
    assert "? inconclusive" in page.visible
    assert not re.search(r"\bnan\b", page.visible.lower())


def test_page_refers_to_no_other_resource(sweep, tmp_path):
    page = write_page(sweep, tmp_path)
    links = [
        value for _, at in page.elements for name, value in at.items() if name in ("src", "href", "data", "action")
    ]
    assert links
    assert [link for link in links if not str(link).startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\(", page.text("style"))
    policy = next(at["content"] for _, at in page.elements if at.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_notes_and_errors_are_shown_as_text(tmp_path):
    outputs = tmp_path / "outputs"
    write_run(outputs / "a" / "<b>bold</b>", "lrn", 0.1, 1, note=HOSTILE, device=HOSTILE, tags=[HOSTILE])
    write_run(outputs / "a" / "two", "lrn", 0.1, 2, status="failed", error=HOSTILE)
    page = write_page(replace(compared(outputs), sentence=HOSTILE, caveats=[HOSTILE], skipped=[HOSTILE]), tmp_path)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not [at for _, at in page.elements if "onerror" in at]
    assert HOSTILE in {run["note"] for run in page.data["runs"]}
    assert page.visible.count(" ".join(HOSTILE.split())) >= 3  # finding, caveats, skipped
    raw = (tmp_path / "report.html").read_text()
    assert raw.count("</script>") == 2


def test_names_metrics_and_settings_are_shown_as_text(tmp_path):
    """A text that HTML, JavaScript or a template would evaluate, wherever a run can put one."""
    hostile = "{{ 7 * 191 }}{% raw %}<script>window.hacked = 1</script>\"'"
    name = hostile.replace("/", "\\")  # a file's name has no slash
    folder = tmp_path / "outputs" / "s" / name
    write_run(folder, "lrn", 0.1, 1, config={"seed": 1, "optim.lr": 0.1, hostile: hostile}, versions={hostile: hostile})
    write_picture(folder / "plots" / f"{name}.png", random.Random(0))
    (folder / "metrics.csv").write_text("epoch," + '"' + hostile.replace('"', '""') + '"' + "\n0,0.5\n")
    comparison = compared(tmp_path / "outputs")
    page = write_page(
        replace(
            comparison,
            metric=replace(comparison.metric, key=hostile, label=hostile),
            arms=[replace(comparison.arms[0], label=hostile)],
            varying=[hostile],
        ),
        tmp_path,
    )
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "1337" not in page.visible
    assert page.text("title").startswith(hostile)
    for part in ("th", "dt", "dd", "methods"):
        assert hostile in page.text(part), part
    for part in ("h3", "figcaption", "markdown"):
        assert name in page.text(part), part
    image = next(dict(at) for tag, at in page.elements if tag == "img" and at.get("src"))
    assert str(image["alt"]).count(name) == 2
    data = page.data
    assert data["runs"][0]["name"] == f"s/{name}"
    assert hostile in data["common"]["settings"]
    assert data["metric"]["key"] == hostile
    assert data["varying"] == [{"key": hostile, "values": [hostile]}]
    assert hostile in [column["key"] for column in data["curves"]["columns"]]


def test_failed_runs_are_listed_without_a_value(sweep, tmp_path):
    runs = {run["name"]: run for run in write_page(sweep, tmp_path).data["runs"]}
    failed = runs["norms/model-bn_lr-0.1_seed-9"]
    assert (failed["status"], failed["value"]) == ("failed", None)
    assert failed["error"] == "RuntimeError: the loss is not finite at step 217 (lr 0.1)"
    assert len(runs) == 14
    assert sum(run["value"] is not None for run in runs.values()) == 12


def test_table_lists_every_run_regardless_of_the_terminal_table(sweep, tmp_path):
    cut = ComparisonTable(["optim.lr"], ["optim.lr"], [[0.1]])
    page = write_page(replace(sweep, runs_table=cut), tmp_path)
    assert sorted(page.data["table"]["runs"]) == list(range(14))
    assert [column["key"] for column in page.data["table"]["columns"]] == ["optim.lr", "run"]


def test_shared_settings_are_stored_once_and_no_setting_is_lost(sweep, tmp_path):
    data = write_page(sweep, tmp_path).data
    assert "model.stages.conv3.out" in data["common"]["settings"]
    for run, stored in zip(sweep.runs, data["runs"], strict=True):
        settings = data["common"]["settings"] | stored["settings"]
        assert {key: settings[key] for key in run.config} == run.config
        assert settings["model (option)"] == run.choices["model"]


def test_curves_equal_metrics_csv_to_five_digits(sweep, tmp_path):
    data = write_page(sweep, tmp_path).data
    column = [each["key"] for each in data["curves"]["columns"]].index("val/top1")
    for run, line in zip(sweep.runs, data["curves"]["lines"], strict=True):
        header, *rows = [text.split(",") for text in (run.path / "metrics.csv").read_text().split()]
        wanted = [float(row[header.index("val/top1")]) for row in rows]
        assert line["values"][column] == pytest.approx(wanted, rel=5e-5)
        assert line["epochs"] == list(range(len(rows)))


def test_long_curves_are_thinned_to_the_same_epochs(tmp_path):
    write_run(tmp_path / "s" / "long", "lrn", 0.1, 1, epochs=2000)
    write_run(tmp_path / "s" / "short", "lrn", 0.1, 2, epochs=1500)
    curves = read_curves(list(read_runs(tmp_path)))
    long, short = (line["epochs"] for line in curves.lines if line)
    assert POINTS_PER_LINE / 2 < len(long) <= POINTS_PER_LINE + 1
    assert (long[-1], short[-1]) == (1999, 1499)
    assert set(short[:-1]) <= set(long)


def test_rows_of_the_same_epoch_are_merged(tmp_path):
    write_run(tmp_path / "s" / "a", "lrn", 0.1, 1)
    (tmp_path / "s" / "a" / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,9,0.5,\n0,9,,0.7\n1,19,0.4,\n")
    curves = read_curves(list(read_runs(tmp_path)))
    assert curves.columns == ["val/loss", "train/loss"]
    assert curves.lines == [{"epochs": [0, 1], "values": [[0.7, None], [0.5, 0.4]]}]


def test_curves_of_another_projects_run_are_read(tmp_path):
    run = tmp_path / "logs" / "a"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("seed: 1\n")
    (run / "csv" / "version_0").mkdir(parents=True)
    (run / "csv" / "version_0" / "metrics.csv").write_text(
        "epoch,step,train/loss,valid_acc,test/acc\n0,9,0.5,,\n0,9,,0.7,\n1,19,0.4,,\n1,19,,0.8,\n2,20,,,0.75\n"
    )
    curves = read_curves(list(read_runs(tmp_path)))
    assert curves.columns == ["val/acc", "train/loss"]
    assert curves.lines == [{"epochs": [0, 1], "values": [[0.7, 0.8], [0.5, 0.4]]}]


def test_rows_without_an_epoch_are_ignored(tmp_path):
    """LearningRateMonitor writes such a row before the first epoch."""
    (tmp_path / "metrics.csv").write_text("epoch,step,lr-Adam,val_acc\n,9,0.1,\n0,9,,50\n1,19,,1.0\n")
    curves = read_curves(list(read_runs(tmp_path)))
    assert curves.unreadable == []
    assert curves.columns == ["val/acc"]
    assert curves.lines[0]["values"] == [[0.5, 0.01]]


def test_damaged_metrics_csv_is_reported_and_other_runs_are_shown(sweep, tmp_path):
    broken = tmp_path / "outputs" / "norms" / "model-lrn_lr-0.1_seed-1" / "metrics.csv"
    broken.write_text("epoch,val/loss\n0,abc\n")
    (broken.parent.with_name("model-lrn_lr-0.1_seed-2") / "metrics.csv").unlink()
    page = write_page(sweep, tmp_path)
    assert str(broken) in page.visible
    assert "1 run without per-epoch metrics" in page.visible
    assert sum(line is None for line in page.data["curves"]["lines"]) == 2


def test_picture_budget_is_kept_and_shared_between_arms(sweep):
    all_of_them = read_pictures(sweep.arms, sweep.runs)
    assert (len(all_of_them.shown), all_of_them.omitted) == (12, 0)
    room = sum(len(picture.uri) for picture in all_of_them.shown[:4])
    few = read_pictures(sweep.arms, sweep.runs, budget=room)
    assert [picture.run.name for picture in few.shown] == [arm.runs[0].name for arm in sweep.arms]
    assert few.omitted == 8


def test_pictures_are_scaled_down_and_other_files_are_skipped(tmp_path):
    folder = tmp_path / "outputs" / "s" / "a"
    write_run(folder, "lrn", 0.1, 1)
    write_picture(folder / "plots" / "huge.png", random.Random(0), (3600, 1800))
    (folder / "plots" / "text.png").write_text("not a picture")
    comparison = compared(tmp_path / "outputs")
    found = read_pictures(comparison.arms, comparison.runs)
    assert [(picture.name, picture.width, picture.height) for picture in found.shown] == [("huge", 900, 450)]
    assert found.unreadable == 1
    assert "1 file could not be read as images" in write_page(comparison, tmp_path).visible


def test_picture_has_its_caption_as_alternative_text_and_its_kind_is_explained(tmp_path):
    folder = tmp_path / "outputs" / "s" / "a"
    write_run(folder, "lrn", 0.1, 1)
    (folder / "plots").mkdir()
    described = PngInfo()
    described.add_text("Description", 'Of "5" <b>images</b>\n& more ' + "x" * 2000)
    Image.new("RGB", (8, 8)).save(folder / "plots" / "neighbours.png", pnginfo=described)
    Image.new("RGB", (8, 8)).save(folder / "plots" / "mine.png")
    page = write_page(compared(tmp_path / "outputs"), tmp_path)
    alts = [dict(attributes)["alt"] for tag, attributes in page.elements if tag == "img" and dict(attributes)["alt"]]
    mine, neighbours = sorted(alts)
    assert mine.startswith("mine of ")
    assert 'Of "5" <b>images</b> & more xxx' in neighbours
    assert len(neighbours) < 700
    assert "nearest features in the last hidden layer, and their distances" in page.visible


def test_methods_paragraph_names_seeds_test_baseline_and_margin(sweep):
    text = methods(replace(sweep, differences=[replace(each, method="Welch with Holm") for each in sweep.differences]))
    for part in (
        "4 configurations",
        "3 seeds",
        "Welch's t tests with Holm's correction (two-sided, family-wise 5%)",
        "Intervals of differences use the same level with Bonferroni's correction",
        f"a false verdict in {REPEATED_TEST_PERCENT} of 100 cases (simulated), not in 5",
        "model=bn optim.lr=0.1",
        "0.50 points",
        "2 of 14 runs",
    ):
        assert part in text
    alone = replace(sweep, differences=[], margin=None, arms=[replace(sweep.arms[0], values=[0.9])])
    assert "a single run" in methods(alone)
    assert "tested" not in methods(alone)


def test_table_to_copy_is_markdown(sweep, tmp_path):
    lines = write_page(sweep, tmp_path).text("markdown").strip().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines == markdown_table(main_and_rest(sweep)[0], 50, "test/top1").splitlines()
    assert re.fullmatch(r"[|:\- ]+", lines[1])


def test_provenance_lists_versions_commit_and_command(sweep, tmp_path):
    changed = [replace(sweep.runs[0], facts=sweep.runs[0].facts | {"commit": "f" * 40}), *sweep.runs[1:]]
    page = write_page(replace(sweep, runs=changed), tmp_path)
    for text in (
        "python -m alexnet_exp compare outputs",
        "torch 2.14.1",
        "3f2a91c07be4 (13 runs)",
        "ffffffffffff (1 run)",
    ):
        assert text in page.visible


def test_comparison_without_finished_runs_has_a_report(tmp_path):
    write_run(tmp_path / "outputs" / "s" / "a", "lrn", 0.1, 1, status="failed", error="killed")
    page = write_page(replace(compared(tmp_path / "outputs"), sentence="no run has finished"), tmp_path)
    assert "no run has finished" in page.visible


def test_unwritable_path_is_a_user_error(sweep, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_report(sweep, tmp_path / "nowhere" / "report.html")


def test_every_script_and_style_is_included_and_has_no_long_lines():
    folder = Path(page.__file__).parent
    assert sorted(page.SCRIPTS) == sorted(file.name for file in (folder / "scripts").iterdir())
    assert sorted(page.STYLES) == sorted(file.name for file in (folder / "styles").iterdir())
    files = [*folder.glob("scripts/*"), *folder.glob("styles/*"), *folder.glob("templates/*")]
    long = [f"{file.name}: {line}" for file in files for line in file.read_text().splitlines() if len(line) > 120]
    assert long == []


def test_every_safe_filter_has_a_comment_with_the_reason():
    for file in (Path(page.__file__).parent / "templates").iterdir():
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.search(r"\|\s*safe\b", line):
                before = lines[number - 1] + lines[number - 2]
                assert "{#" in before, f"{file.name}: {line}"


def test_report_does_not_import_torch_or_scipy():
    code = "import sys, alexnet_exp.compare.render.html; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_two_hundred_runs_of_a_hundred_epochs_are_under_six_megabytes(tmp_path):
    write_picture(tmp_path / "picture.png", random.Random(0))
    for place in range(200):
        folder = tmp_path / "outputs" / "s" / f"run-{place}"
        write_run(folder, ("lrn", "bn")[place % 2], (0.1, 0.03, 0.01, 0.003)[place % 4], place, epochs=100)
        (folder / "plots").mkdir()
        for name in ("a", "b", "c"):
            shutil.copy(tmp_path / "picture.png", folder / "plots" / f"{name}.png")
    page = write_page(compared(tmp_path / "outputs"), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
    assert len(page.data["runs"]) == 200
    assert all(line is not None and len(line["epochs"]) == 100 for line in page.data["curves"]["lines"])
    omitted = re.search(r"(\d+) pictures omitted", page.visible)
    assert omitted
    assert int(omitted[1]) + [tag for tag, _ in page.elements].count("img") - 1 == 600


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("run compare with --baseline KEY=VALUE.", ["--baseline"]),
        ("0.95 points of test top-1.", ["top-1"]),
        ("-0.34 to 1.77 in norms/model-bn_seed-1, by val/top1", []),
        ("<b>a-b</b> & c-d", ["c-d"]),
    ],
)
def test_short_words_with_hyphens_do_not_wrap(text: str, whole: list[str]) -> None:
    result = unbroken(text)
    assert re.findall(r'<span class="whole">(.*?)</span>', result) == whole
    assert re.sub(r'<span class="whole">(.*?)</span>', r"\1", result) == escape(text)


def test_settings_wrap_between_them_and_after_the_equals_sign() -> None:
    result = breakable("model=<b> lr=0.1")
    assert result == '<span class="setting">model=<wbr>&lt;b&gt;</span> <span class="setting">lr=<wbr>0.1</span>'
