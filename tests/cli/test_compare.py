"""Tests of the commands `compare` and `runs`, from arguments to output."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_exp.__main__ import main
from alexnet_exp.runs.folder import RunFolder

CONFIG = {"seed": 1, "optim.lr": 0.1, "model.norm": "bn", "model.init": "a", "trainer.max_epochs": 5}


def write(path, status="done", *, top1=0.9, model="bn", choices=True, **config):
    path.mkdir(parents=True)
    config = CONFIG | {"model.norm": model, "model.init": f"of {model}"} | config
    metrics = {"val/top1": top1, "test/top1": top1, "test/loss": 1 - top1} if status == "done" else {}
    facts = {"seconds": 60.0, "images_per_s": 500.0, "start": "2026-11-24T10:00:00.000+00:00", "fingerprint": "f"}
    facts |= {"choices": {"model": model}} if choices else {}
    if status == "failed":
        facts["error"] = "out of memory"
    result = {"format": 1, "status": status, "config": config, "metrics": metrics} | facts
    (path / "result.json").write_text(json.dumps(result))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Two models, three seeds each, far apart; a run that failed and one that is damaged."""
    monkeypatch.chdir(tmp_path)
    for model, values in {"bn": (0.90, 0.91, 0.905), "lrn": (0.95, 0.951, 0.949)}.items():
        for seed, top1 in enumerate(values, start=1):
            write(tmp_path / "outputs" / "s" / f"{model}-{seed}", top1=top1, model=model, seed=seed)
    write(tmp_path / "outputs" / "s" / "bn-4", "failed", seed=4)
    (tmp_path / "outputs" / "s" / "cut").mkdir()
    (tmp_path / "outputs" / "s" / "cut" / "result.json").write_text("{")
    return tmp_path / "outputs"


def printed(capsys, *words, code=0):
    assert main(list(words)) == code
    return capsys.readouterr().out


def refused(capsys, *words):
    assert main(list(words)) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def test_outputs_are_compared_where_nothing_is_named(outputs, capsys):
    text = printed(capsys, "compare")
    assert text.splitlines()[0].startswith("model=lrn is first of 2")
    assert "1 failed" in text
    assert "skipped: outputs/s/cut/result.json" in text
    assert "model.init" not in text  # decided by the model, and so not a column of its own


def test_a_baseline_gives_a_verdict(outputs, capsys):
    text = printed(capsys, "compare", "outputs", "--baseline", "model=bn")
    assert "lrn" in text.splitlines()[0]
    assert "better" in text
    assert "4.50" in text


def test_machines_read_csv_and_json(outputs, capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "compare", "--format", "csv"))))
    assert [row["run"] for row in rows[:3]] == ["s/lrn-2", "s/lrn-1", "s/lrn-3"]  # the best by val first
    assert [row["status"] for row in rows] == ["done"] * 6 + ["failed"]
    assert rows[0]["model"] == "lrn"
    content = json.loads(printed(capsys, "compare", "--baseline", "model=bn", "--format", "json"))
    assert {arm["label"]: arm["n"] for arm in content["arms"]} == {"model=lrn": 3, "model=bn": 3}
    assert content["differences"][0]["difference"] == pytest.approx(0.045)
    assert printed(capsys, "compare", "--format", "markdown").startswith("**")


def test_conditions_columns_and_order(outputs, capsys):
    words = (
        "compare",
        "--where",
        "model=bn",
        "--where",
        "status=done",
        "--columns",
        "run,seed,test/loss",
        "--format",
        "csv",
    )
    rows = list(csv.reader(io.StringIO(printed(capsys, *words, "--sort", "-seed"))))
    assert rows[0] == ["run", "seed", "test/loss"]
    assert [row[1] for row in rows[1:]] == ["3", "2", "1"]
    rows = list(csv.reader(io.StringIO(printed(capsys, *words, "--sort", "seed", "--top", "2"))))
    assert [row[1] for row in rows[1:]] == ["1", "2"]
    rows = list(csv.reader(io.StringIO(printed(capsys, *words, "--metric", "test/loss", "--top", "1"))))
    assert len(rows) == 2


def test_names_are_found_below_outputs(outputs, capsys):
    text = printed(capsys, "compare", "s/bn-1", "s/lrn-1", "--format", "csv")
    assert len(text.splitlines()) == 3
    assert len(printed(capsys, "compare", "s", "--format", "csv").splitlines()) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "modle=bn"], "did you mean model?"),
        (["--where", "model=lnr"], "model is bn, lrn"),
        (["--where", "model"], "not a condition"),
        (["--metric", "test/topp1"], "did you mean test/top1?"),
        (["--columns", "optim.ler"], "did you mean optim.lr?"),
        (["--sort", "seeed"], "did you mean seed?"),
        (["--group-by", "modl"], "did you mean model?"),
        (["--best-of", "optim.lrr"], "did you mean optim.lr?"),
        (["--baseline", "model=ln"], "bn"),
        (["--margin", "wide", "--baseline", "model=bn"], "must be a number greater than 0"),
        (["--top", "0"], "--top"),
        (["--format", "yaml"], "yaml"),
        (["--tolerance", "1"], "--assert-equal"),
        (["--colums", "x"], "--colums"),
        (["nowhere"], "nowhere"),
        (["--assert-equal"], "needs two runs"),
    ],
)
def test_wrong_options_are_one_line(outputs, capsys, words, said):
    assert said in refused(capsys, "compare", *words)


def test_no_run_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "no outputs folder yet" in refused(capsys, "compare")
    assert "no such folder" in refused(capsys, "runs")
    (tmp_path / "outputs").mkdir()
    assert "no run under outputs" in refused(capsys, "compare")


def test_only_failed_and_running_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "outputs" / "a", "failed")
    write(tmp_path / "outputs" / "b", "running")
    text = printed(capsys, "compare")
    assert "failed" in text
    assert "killed" in text  # its status is running, but no process holds its lock


def test_a_csv_file_with_a_seed_column(tmp_path, capsys):
    lines = ["fold,norm,test/acc"]
    lines += [
        f"{seed},{norm},{0.9 + 0.05 * (norm == 'lrn') + seed / 1000}" for norm in ("bn", "lrn") for seed in (1, 2, 3)
    ]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    words = (
        "compare",
        str(tmp_path / "runs.csv"),
        "--seed-column",
        "fold",
        "--baseline",
        "norm=bn",
        "--format",
        "json",
    )
    content = json.loads(printed(capsys, *words))
    assert content["metric"]["key"] == "test/acc"
    assert content["differences"][0]["difference"] == pytest.approx(0.05)
    assert content["differences"][0]["verdict"] == "better"
    assert content["arms"][0]["seeds"] == [1, 2, 3]


def test_assert_equal(outputs, capsys, tmp_path):
    for name, loss in (("bn-1", 1.0), ("bn-2", 1.0), ("lrn-1", 1.5)):
        RunFolder(outputs / "s" / name).append_steps([(1, 2.0, 0.1), (2, loss, 0.1)])
    assert printed(capsys, "compare", "s/bn-1", "s/bn-2", "--assert-equal") == "2 steps are equal, bit for bit\n"
    text = printed(capsys, "compare", "s/bn-1", "s/lrn-1", "--assert-equal", code=1)
    assert text == "step 2: loss 1.0 and 1.5; 1 step is equal before it\n"
    text = printed(capsys, "compare", "s/bn-1", "s/lrn-1", "--assert-equal", "--tolerance", "0.5")
    assert text == "2 steps are equal, within 0.5\n"
    assert "from 0 up" in refused(capsys, "compare", "s/bn-1", "s/lrn-1", "--assert-equal", "--tolerance", "-1")


def test_the_latest_runs(outputs, capsys):
    lines = printed(capsys, "runs").splitlines()
    assert len(lines) == 8
    assert lines[0].split() == ["start", "run", "status", "progress", "metric", "value"]
    content = json.loads(printed(capsys, "runs", "--format", "json"))
    assert {entry["run"] for entry in content} >= {"s/lrn-1", "s/bn-4"}
    assert printed(capsys, "runs", "s", "--format", "markdown").startswith("| start |")
    assert "no such folder" in refused(capsys, "runs", "nowhere")


def test_show_and_diff(outputs, capsys):
    assert "out of memory" in printed(capsys, "runs", "show", "s/bn-4")
    assert json.loads(printed(capsys, "runs", "show", "s/bn-4", "--format", "json"))["status"] == "failed"
    text = printed(capsys, "runs", "diff", "s/bn-1", "s/lrn-1")
    assert "model.norm" in text
    assert "90.00%" in text
    assert "no such run" in refused(capsys, "runs", "show", "nowhere")


def test_neither_command_imports_torch(outputs):
    code = (
        "import sys; from alexnet_exp.__main__ import main; main(['compare']); main(['runs']); "
        "sys.exit(bool({'torch', 'pytorch_lightning', 'hydra', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_real_run_from_end_to_end(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(finished.path, tmp_path / "outputs" / "train" / name)
    shown = printed(capsys, "compare", "--format", "json")
    runs = json.loads(shown)["runs"]
    assert [run["metrics"] for run in runs] == [finished.result["metrics"]] * 2
    assert [run["status"] for run in runs] == ["done"] * 2
    assert "twice" in shown or "repeated" in shown  # the same seed counts once
    assert "steps are equal, bit for bit" in printed(capsys, "compare", "train/one", "train/two", "--assert-equal")
    assert "identical settings" in printed(capsys, "runs", "diff", "train/one", "train/two")
    assert "done" in printed(capsys, "runs", "show", "train/one")
    assert printed(capsys, "runs").count("2 epochs") == 2


ODD = {
    "model.norm": "none",
    "model.flag": True,
    "data.mean": [0.5, 0.25],
    "model.act": None,
    "data.pca": "0.1",
    "optim.lr": 1e-05,
    "model.pool": "-max",
    "model.stem": "'quoted",
    "model.cut": "1_1",
    "note_of": "8e45012",
}


@pytest.mark.parametrize("choices", [True, False])
def test_its_own_csv_is_read_back(tmp_path, monkeypatch, capsys, choices):
    """The same arms, verdict and table from the export as from the runs, whatever the settings look like."""
    monkeypatch.chdir(tmp_path)
    for place, (model, values) in enumerate({"bn": (0.90, 0.91, 0.905), "none": (0.95, 0.951, 0.949)}.items()):
        for seed, top1 in enumerate(values, start=1):
            odd = (
                ODD
                if place
                else {**dict.fromkeys(ODD, "null"), "model.flag": False, "optim.lr": 100000, "model.act": 2}
            )
            write(tmp_path / "o" / f"{model}-{seed}", top1=top1, model=model, choices=choices, seed=seed, **odd)
    write(tmp_path / "o" / "none-4", "died", seed=4, model="none", choices=choices, **ODD)
    columns = ["run", "status", "minutes", "images_per_s", *ODD, *CONFIG, "test/top1", "val/top1", "test/loss"]
    exported = printed(capsys, "compare", "o", "--columns", ",".join(columns), "--format", "csv")
    (tmp_path / "out.csv").write_text(exported)
    for condition in ("model.norm=none", "model.flag=true", "optim.lr<1"):
        words = ("--where", condition, "--columns", "seed,test/top1,minutes,status,run,model.pool")
        assert printed(capsys, "compare", "out.csv", *words) == printed(capsys, "compare", "o", *words)
    arms = [
        [
            (arm["n"], arm["values"], arm["seeds"], arm["uncounted"])
            for arm in json.loads(printed(capsys, "compare", source, "--format", "json"))["arms"]
        ]
        for source in ("o", "out.csv")
    ]
    assert arms[0] == arms[1]
    assert [n for n, *_ in arms[0]] == [3, 3]
    words = ("--baseline", "model.norm=none", "--group-by", "model.norm", "--format", "json")
    first, again = (json.loads(printed(capsys, "compare", place, *words)) for place in ("out.csv", "o"))
    for key in ("difference", "interval", "p", "method", "verdict"):
        assert [one[key] for one in first["differences"]] == [one[key] for one in again["differences"]]
    assert [arm["settings"]["optim.lr"] for arm in first["arms"]] == [1e-05, 100000]


def test_its_own_csv_gives_the_same_verdict(outputs, capsys):
    (outputs / "out.csv").write_text(printed(capsys, "compare", "--format", "csv"))
    words = ("--baseline", "model=bn", "--format", "json")
    first, again = (json.loads(printed(capsys, "compare", place, *words)) for place in ("outputs", "outputs/out.csv"))
    assert first["sentence"] == again["sentence"]
    assert first["differences"][0]["interval"] == again["differences"][0]["interval"]


def test_none_is_a_word_and_null_is_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.csv").write_text("norm,seed,test_acc\nnone,1,0.5\n,1,0.6\nbn,1,0.7\n")

    def count(word):
        return len(printed(capsys, "compare", "r.csv", "--where", f"norm={word}", "--format", "csv").splitlines()) - 1

    assert [count(word) for word in ("none", "null", "None", "none,null", "bn", '"bn"')] == [1, 1, 1, 2, 1, 1]
    assert "norm is none, null, bn" in refused(capsys, "compare", "r.csv", "--where", 'norm="null"')
    assert printed(capsys, "compare", "r.csv", "--baseline", "norm=none")


def test_names_are_the_same_in_either_unicode_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, word in enumerate(("caf\u00e9", "cafe\u0301", "tea")):
        write(tmp_path / "o" / str(number), top1=0.9, seed=number, model="bn", **{"data.gr\u00f6\u00dfe": word})
    text = printed(capsys, "compare", "o", "--where", "data.gro\u0308\u00dfe=cafe\u0301", "--format", "csv")
    assert len(text.splitlines()) == 3
    content = json.loads(printed(capsys, "compare", "o", "--format", "json"))
    assert sorted(arm["n"] for arm in content["arms"]) == [1, 2]


def test_the_direction_is_said_and_can_be_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [
        f"{net},{seed},{x + seed / 100},{1500 + 100 * x}" for net, x in (("a", 0.2), ("b", 0.4)) for seed in (1, 2, 3)
    ]
    (tmp_path / "r.csv").write_text("net,seed,test error (%),test/elo\n" + "\n".join(rows) + "\n")
    words = ("compare", "r.csv", "--baseline", "net=b", "--metric")
    first = printed(capsys, *words, "test error (%)").splitlines()[0]
    assert first.startswith("a beats b by 0.2 of test error (%)")
    assert first.endswith("Lower is better.")
    first = printed(capsys, "compare", "r.csv", "--metric", "test error (%)").splitlines()[0]
    assert first.startswith("net=a is first of 2")
    assert first.endswith("Lower is better.")
    first = printed(capsys, *words, "test error (%)", "--higher-is-better").splitlines()[0]
    assert first.startswith("a is worse than b")
    assert first.endswith("Higher is better.")
    assert "--lower-is-better" in printed(capsys, "compare", "r.csv", "--metric", "test/elo").splitlines()[0]
    first = printed(capsys, "compare", "r.csv", "--metric", "test/elo", "--lower-is-better").splitlines()[0]
    assert first.startswith("net=a is first of 2")
    content = json.loads(printed(capsys, *words, "test/elo", "--lower-is-better", "--format", "json"))
    assert content["metric"]["higher_is_better"] is False
    assert "not allowed with" in refused(capsys, *words, "test/elo", "--lower-is-better", "--higher-is-better")
    for option in ("--percent", "--lower-is-better", "--higher-is-better"):
        assert f"{option} cannot be used with --claims" in refused(capsys, "compare", "--claims", option)


def test_percent_can_be_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.csv").write_text("net,test_acc,val_acc\na,0.9,1.1\nb,1.0,1.2\n")
    assert "100.00%" in printed(capsys, "compare", "r.csv").splitlines()[0]
    assert "test acc 1.00% " in printed(capsys, "compare", "r.csv", "--percent").splitlines()[0]
    (tmp_path / "r.csv").write_text("net,test_acc,val_acc\na,90,91\nb,92,93\n")
    assert "test acc 92.00% " in printed(capsys, "compare", "r.csv", "--percent").splitlines()[0]


def test_a_file_without_the_metric_says_what_it_has(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.csv").write_text("net,quality,size\na,0.5,1\nb,0.6,1\n")
    text = printed(capsys, "compare", "r.csv").splitlines()[0]
    assert text == "No run that is done has test top-1; choose a column of numbers with --metric: quality, size."
    assert "net=b is first of 2 by quality" in printed(capsys, "compare", "r.csv", "--metric", "quality")


def table(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("key", ["name", "objective", "checkpoint", "task_name", "resume", "extras", "logger", "local"])
@pytest.mark.parametrize("seeds", [("1", "2", "3"), ("", "", "")], ids=["seeds", "no seeds"])
def test_a_column_of_a_table_is_a_setting_whatever_our_own_key_of_that_name_means(tmp_path, capsys, key, seeds):
    rows = [("b", s, 0.9 + n / 1000) for n, s in enumerate(seeds)] + [
        ("a", s, 0.8 + n / 1000) for n, s in enumerate(seeds)
    ]
    table(tmp_path / "t.csv", f"{key},seed,test/acc", rows)
    text = printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", f"{key}=a")
    assert text.startswith("b beats a by 10.00 points")


def test_a_name_whose_runs_have_seeds_of_their_own_makes_arms_and_one_that_is_the_seed_does_not(tmp_path, capsys):
    table(tmp_path / "t.csv", "name,seed,test/acc", [("b" if s > 3 else "a", s, 0.8 + s / 100) for s in range(1, 7)])
    assert "first of 2" in printed(capsys, "compare", str(tmp_path / "t.csv"))
    rows = [(f"seed {s}", m, s, 0.8 + s / 100) for m in "ab" for s in (1, 2, 3)]
    table(tmp_path / "t.csv", "name,model,seed,test/acc", rows)
    assert "first of 2" in printed(capsys, "compare", str(tmp_path / "t.csv")).replace(
        "and 1 more are first", "is first"
    )
    table(tmp_path / "t.csv", "Tags,seed,test/acc", [("b" if s > 3 else "a", s, 0.8 + s / 100) for s in range(1, 7)])
    assert "Tags differs within an arm" in printed(capsys, "compare", str(tmp_path / "t.csv"))


def test_a_name_beside_the_settings_that_determine_it_makes_no_arms(tmp_path, capsys):
    rows = [(f"run {model}", model, s, 0.8 + s / 1000 + (model == "b") / 10) for model in "ab" for s in (1, 2, 3)]
    table(tmp_path / "t.csv", "name,model,seed,test/acc", rows)
    assert printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", "model=a").startswith("b beats a by 10.00")


@pytest.mark.parametrize("key", ["epoch", "host", "num_workers"])
def test_what_differs_within_an_arm_is_named_and_a_baseline_makes_arms_of_it(tmp_path, capsys, key):
    rows = [(value, s, 0.8 + s / 1000 + (value == 20) / 10) for value in (10, 20) for s in (1, 2, 3)]
    table(tmp_path / "t.csv", f"{key},seed,test/acc", rows)
    text = printed(capsys, "compare", str(tmp_path / "t.csv"))
    assert f"{key} differs within an arm and makes no arms; use --group-by KEY to make arms of them" in text
    text = printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", f"{key}=10")
    assert text.startswith(f"{key}=20 beats {key}=10 by 10.00 points")


def test_a_baseline_can_name_a_fact_such_as_the_commit(tmp_path, capsys):
    for commit, top1 in (("a1", 0.8), ("b2", 0.9)):
        for seed in (1, 2, 3):
            write(tmp_path / "r" / f"{commit}-{seed}", top1=top1 + seed / 1000, seed=seed)
            file = tmp_path / "r" / f"{commit}-{seed}" / "result.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": commit}))
    text = printed(capsys, "compare", str(tmp_path / "r"), "--baseline", "commit=a1")
    assert text.startswith("b2 beats a1 by 10.00 points")


@pytest.mark.parametrize("value", ["a,b", 'it\'s "q", x', "--help", "猫 net", "b=1"])
def test_a_value_with_a_comma_or_a_quote_can_be_named(tmp_path, capsys, value):
    quoted = '"' + value.replace('"', '""') + '"'
    rows = [(one, s, 0.8 + s / 1000 + (one == quoted) / 10) for one in ("a", quoted) for s in (1, 2, 3)]
    table(tmp_path / "t.csv", "model,seed,test/acc", rows)
    text = printed(capsys, "compare", str(tmp_path / "t.csv"), "--where", f"model={value}")
    assert "(95% interval" in text.splitlines()[0]
    if value != "a,b":  # which is either of both, too
        text = printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", f"model={value}")
        assert "a is worse than" in text
    assert "3 done" in printed(capsys, "compare", str(tmp_path / "t.csv"), "--where", f'model="{value}"')


def test_lists_are_the_same_with_and_without_blanks(tmp_path, capsys):
    rows = [
        ('"[1, 2]"', 1, 0.8),
        ('"[1,2]"', 2, 0.81),
        ('"[ 1,2 ]"', 3, 0.82),
        *(('"[3]"', s, 0.9 + s / 100) for s in (1, 2, 3)),
    ]
    table(tmp_path / "t.csv", "layers,seed,test/acc", rows)
    text = printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", "layers=[1,2]")
    assert text.startswith("[3] beats [1, 2] by 11.00 points")


def test_contradictory_options_are_rejected_in_one_line(tmp_path, capsys):
    table(tmp_path / "t.csv", "model,seed,test/acc,test/loss", [(m, s, 0.8, 0.1 * s) for m in "ab" for s in (1, 2, 3)])
    file = str(tmp_path / "t.csv")
    loss = refused(capsys, "compare", file, "--metric", "test/loss", "--baseline", "model=a", "--margin", "0.5%")
    assert loss == "compare: --margin 0.5%: test loss is not an accuracy; write the margin in its units\n"
    for words in (["--baseline", "seed=1"], ["--best-of", "seed", "--baseline", "model=a"], ["--group-by", "seed"]):
        assert f"{words[0]} seed: an arm contains the runs of all its seeds" in refused(capsys, "compare", file, *words)
    assert "is a folder" in refused(capsys, "compare", file, "--html", str(tmp_path))


def test_the_words_that_a_refusal_suggests_are_quoted_for_a_shell_and_work(tmp_path, capsys):
    rows = [(m, lr, s, 0.8 + s / 1000) for m, lr in (("a", 0.1), ("b", 0.2)) for s in (1, 2, 3)]
    table(tmp_path / "t.csv", "model,Learning Rate,seed,test/acc", rows)
    text = refused(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", "model=a")
    assert "add --best-of 'Learning Rate' to" in text
    assert "write --baseline 'model=a,Learning Rate=0.1' to" in text
    printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", "model=a,Learning Rate=0.1")
    printed(capsys, "compare", str(tmp_path / "t.csv"), "--baseline", "model=a", "--best-of", "Learning Rate")


def test_the_report_does_not_overwrite_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = Path("runs.csv")
    table.write_text("model,seed,test/top1\nlrn,1,0.9\nnone,1,0.8\n")
    before = table.read_text()
    assert main(["compare", "runs.csv", "--html", "./runs.csv"]) == 2
    assert capsys.readouterr().err == "compare: --html ./runs.csv: would overwrite an input; write another file\n"
    assert table.read_text() == before
