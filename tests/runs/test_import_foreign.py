"""Other projects' runs: the layout of the usual Lightning-Hydra template, and one CSV file."""

import pytest
import yaml

from alexnet_exp import runs
from alexnet_exp.compare.render.html.curves import read_curves
from alexnet_exp.errors import UserError
from alexnet_exp.runs.metric import metric_name

HEADER = "epoch,step,lr-Adam,train/acc,train/loss,val/acc,val/acc_best,val/loss,test/acc,test/loss"
CHECKPOINT = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val/acc", "mode": "max"}


def template_run(folder, *, seed=1, lr=0.001, model="mnist", accuracies=(0.90, 0.95, 0.93), test=0.94, callbacks=True):
    """As the template leaves it: sparse rows, the training's and the validation's apart, the test's at the end."""
    config = {
        "task_name": "train",
        "seed": seed,
        "train": True,
        "paths": {"output_dir": "${hydra:runtime.output_dir}"},
        "model": {"_target_": "src.Module", "optimizer": {"lr": lr}, "net": {"lin1_size": 64}},
        "trainer": {"max_epochs": len(accuracies)},
        "callbacks": {"model_checkpoint": CHECKPOINT} if callbacks else None,
    }
    hydra = {
        "hydra": {
            "run": {"dir": "x"},
            "runtime": {"choices": {"model": model, "data": "mnist", "debug": None, "hydra/launcher": "basic"}},
            "verbose": False,
        }
    }
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"seed={seed}", f"model={model}"]))
    rows = [HEADER]
    best = 0.0
    for epoch, accuracy in enumerate(accuracies):
        best = max(best, accuracy)
        step = 10 * (epoch + 1)
        rows.append(f"{epoch},{step - 1},0.001,,,,,,,")
        rows.append(f"{epoch},{step},,,,{accuracy},{best},{1 - accuracy},,")
        rows.append(f"{epoch},{step},,{accuracy + 0.01},{0.9 - accuracy},,,,,")
    if test is not None:
        rows.append(f"{len(accuracies)},{10 * len(accuracies)},,,,,,,{test},{1 - test}")
    table = folder / "csv" / "version_0" / "metrics.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(rows) + "\n")
    return folder


def test_a_multirun_of_the_template(tmp_path):
    multirun = tmp_path / "logs" / "train" / "multiruns" / "2026-11-24_10-00-00"
    for number, seed in enumerate((12, 13, 14)):
        template_run(multirun / str(number), seed=seed, lr=0.1 * (number + 1))
    (multirun / "multirun.yaml").write_text("hydra: {}\n")
    found = runs.read(tmp_path / "logs")
    assert [run.name for run in found] == [f"train/multiruns/2026-11-24_10-00-00/{number}" for number in range(3)]
    assert [run.seed for run in found] == [12, 13, 14]
    first = found[0]
    assert first.status == "done"
    assert first.config["model.optimizer.lr"] == 0.1
    assert first.config["paths.output_dir"] == "${hydra:runtime.output_dir}"
    assert first.choices == {"model": "mnist", "data": "mnist"}
    assert first.facts["overrides"] == ["seed=12", "model=mnist"]


def test_metrics_are_of_the_epoch_that_the_checkpoint_kept(tmp_path):
    (run,) = runs.read(template_run(tmp_path / "r"))
    assert run.metrics["test/acc"] == 0.94
    assert run.metrics["val/acc"] == 0.95  # of epoch 1, not the last 0.93
    assert run.metrics["train/acc"] == pytest.approx(0.96)
    assert run.facts["metrics_epoch"] == 2
    assert run.facts["epochs"] == 3  # the test's row stands under the epoch after the last
    assert "epoch" not in run.metrics


def test_without_a_monitor_metrics_are_the_last(tmp_path):
    (run,) = runs.read(template_run(tmp_path / "r", callbacks=False))
    assert (run.metrics["val/acc"], run.metrics["train/acc"]) == (0.93, pytest.approx(0.94))
    assert "metrics_epoch" not in run.facts


@pytest.mark.parametrize(
    ("test", "epochs", "log", "status"),
    [
        (0.9, 3, "Traceback (most recent call last):\n  x\nValueError: after the test\n", "done"),
        (None, 3, "fine\n", "done"),
        (None, 5, "fine\n", "unknown"),
        (None, 5, "Traceback (most recent call last):\n  File x\n    y()\nRuntimeError: out\n", "failed"),
    ],
)
def test_an_unrecorded_status_is_derived(tmp_path, test, epochs, log, status):
    folder = template_run(tmp_path / "r", test=test)
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = epochs
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "train.log").write_text(log)
    (run,) = runs.read(folder)
    assert run.status == status
    assert run.facts.get("error") == ("RuntimeError: out" if status == "failed" else None)


def test_of_several_versions_the_last_counts(tmp_path):
    folder = template_run(tmp_path / "r", test=0.1)
    for version, accuracy in (("version_9", 0.2), ("version_10", 0.3)):
        table = folder / "csv" / version / "metrics.csv"
        table.parent.mkdir()
        table.write_text(f"epoch,step,test/acc\n0,1,{accuracy}\n")
    (run,) = runs.read(folder)
    assert run.metrics["test/acc"] == 0.3


def test_damaged_runs_are_skipped_and_named(tmp_path):
    template_run(tmp_path / "good")
    bad = template_run(tmp_path / "bad")
    table = bad / "csv" / "version_0" / "metrics.csv"
    table.write_text("epoch,step,val/acc\n0,1,abc\n")
    odd = template_run(tmp_path / "odd")
    (odd / ".hydra" / "config.yaml").write_text("a: [1")
    found = runs.read(tmp_path)
    assert [run.name for run in found] == ["good"]
    assert [line.split(": ")[0] for line in found.skipped] == [str(table), str(odd / ".hydra" / "config.yaml")]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    folder = template_run(tmp_path / "r", callbacks=False, test=None)
    table = folder / "csv" / "version_0" / "metrics.csv"
    with table.open("a") as file:
        file.write("3,40,,,,0.9")
    (run,) = runs.read(folder)
    assert run.metrics["val/acc"] == 0.93


def test_a_metric_that_ends_in_nan_is_none(tmp_path):
    folder = template_run(tmp_path / "r", callbacks=False)
    (folder / "csv" / "version_0" / "metrics.csv").write_text("epoch,step,val/acc,val/loss\n0,1,0.5,0.1\n1,2,0.6,nan\n")
    (run,) = runs.read(folder)
    assert run.metrics == {"val/acc": 0.6}


def test_underscores_and_other_words_for_the_validation(tmp_path):
    assert [metric_name(name) for name in ("test_acc", "valid/loss", "validation_f1", "train.acc", "lr-Adam")] == [
        *("test/acc", "val/loss", "val/f1", "train/acc", "lr-Adam")
    ]


CSV = """name,status,lr,norm,seed,test/acc,val_acc,test_size,hours
a,finished,0.1,lrn,1,0.9,0.8,100,1.5
b,crashed,0.1,lrn,2,,,100,0.1
c,running,0.1,bn,1,0.7,0.6,100,
"""


def test_a_csv_file_has_a_run_a_row(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text(CSV)
    found = runs.read(file)
    assert [run.name for run in found] == ["a", "b", "c"]
    assert [run.status for run in found] == ["done", "failed", "running"]
    assert found[0].metrics == {"test/acc": 0.9, "val/acc": 0.8}
    assert found[0].config == {"lr": 0.1, "norm": "lrn", "seed": 1, "test_size": 100}
    assert found[1].metrics == {}
    assert found[0].facts["hours"] == 1.5  # a time makes no arm
    assert "hours" not in found[2].facts
    assert found[0].path == file


def test_metrics_and_seeds_by_name(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text(CSV.replace(",seed,", ",fold,"))
    first, *_ = runs.read(file, seed_column="fold", metrics=["hours"])
    assert first.seed == 1
    assert first.metrics["hours"] == 1.5
    assert "hours" not in first.config


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a,b\n1\n", {}, "line 2 has 1 values for 2 columns"),
        ("a,a\n1,2\n", {}, "has two columns named"),
        ("seed,test/acc\n1,2\n", {"seed_column": "sede"}, "no column sede; did you mean seed?"),
    ],
)
def test_invalid_csv_files_are_rejected_in_one_line(tmp_path, content, options, said):
    file = tmp_path / "runs.csv"
    file.write_text(content)
    with pytest.raises(UserError) as refused:
        runs.read(file, **options)
    assert str(refused.value).startswith(f"{file}: ")
    assert said in str(refused.value)


def test_a_column_with_text_is_not_a_metric(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("seed,test/acc,test/name\n1,0.5,x\n2,nan,y\n")
    first, second = runs.read(file)
    assert first.metrics == {"test/acc": 0.5}
    assert first.config["test/name"] == "x"
    assert second.metrics == {}


def test_accuracies_in_percent_are_read_as_shares(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("seed,test_acc,test_loss\n1,93.5,2.5\n2,0.9,3.5\n")
    assert [run.metrics for run in runs.read(file)] == [
        {"test/acc": pytest.approx(0.935), "test/loss": 2.5},
        {"test/acc": pytest.approx(0.009), "test/loss": 3.5},
    ]
    template_run(tmp_path / "logs" / "0", accuracies=(0.9, 95, 93), test=94)
    (run,) = runs.read(tmp_path / "logs")
    assert (run.metrics["val/acc"], run.metrics["test/acc"]) == (pytest.approx(0.95), pytest.approx(0.94))
    (line,) = read_curves([run]).lines
    assert line["values"][read_curves([run]).columns.index("val/acc")] == pytest.approx([0.009, 0.95, 0.93])
