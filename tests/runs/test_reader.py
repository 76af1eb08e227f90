"""Damaged run folders: one line that names the file."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from alexnet_exp.errors import UserError
from alexnet_exp.runs.folder import RunFolder
from alexnet_exp.runs.reader import is_run, read_config, read_metrics, read_result, read_steps, state


@pytest.mark.parametrize(
    ("read", "name", "content"),
    [
        (read_result, "result.json", None),
        (read_result, "result.json", b""),
        (read_result, "result.json", b'{"format": 1, "sta'),
        (read_result, "result.json", b"\xff\xfe"),
        (read_result, "result.json", b"[]"),
        (read_result, "result.json", b'{"format": 2, "status": "done"}'),
        (state, "result.json", b'{"format": 1}'),
        (read_config, ".hydra/config.yaml", None),
        (read_config, ".hydra/config.yaml", b"a: [1"),
        (read_config, ".hydra/config.yaml", b"\x00\x01"),
        (read_config, ".hydra/config.yaml", b"- 1\n"),
        (read_config, ".hydra/config.yaml", b"!!python/object/apply:os.system ['exit 1']\n"),
        (read_metrics, "metrics.csv", b"epoch,lr\n1,0.1,7\n"),
        (read_metrics, "metrics.csv", b"epoch,lr\n1,abc\n"),
        (read_metrics, "metrics.csv", b"lr\n0.1\n"),
        (read_metrics, "metrics.csv", b"\x00\xff\n\x00\n"),
        (read_steps, "steps.csv", b"step,loss,lr\n1,2,x\n"),
        (read_steps, "steps.csv", b"epoch\n1\n"),
    ],
)
def test_damaged_files_are_rejected_in_one_line(tmp_path, read, name, content):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as damaged:
        read(tmp_path)
    assert str(file) in str(damaged.value)
    assert "\n" not in str(damaged.value)


def test_a_damaged_table_is_not_written(tmp_path):
    (tmp_path / "steps.csv").write_bytes(b"step,loss,lr\nhello,1,2\n")
    with pytest.raises(UserError, match=r"steps\.csv"):
        RunFolder(tmp_path).append_steps([(1, 1.0, 1.0)])


@pytest.mark.parametrize("content", [None, b"", b"epoch,lr", b"epoch,lr\n"])
def test_a_run_that_ended_in_its_first_epoch_has_no_rows(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    assert read_metrics(tmp_path) == []
    assert read_steps(tmp_path) == []


def test_a_configuration_is_read_as_hydra_wrote_it(tmp_path):
    config = {"seed": 1, "optim": {"lr": 1e-05, "eps": 1e-7, "name": "sgd"}, "tags": ["a", "on"], "note": None}
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create(config), tmp_path / ".hydra" / "config.yaml")
    assert read_config(tmp_path) == config


def test_a_run_is_a_folder_with_a_result(tmp_path):
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "missing")
    RunFolder(tmp_path).begin({}, {})
    assert is_run(tmp_path)


def test_reading_and_writing_runs_does_not_import_torch():
    modules = ", ".join(f"alexnet_exp.runs.{name}" for name in ("folder", "reader", "lookup", "checksum", "provenance"))
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'pytorch_lightning', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
