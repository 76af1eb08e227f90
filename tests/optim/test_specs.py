"""Settings of optimizers and schedules: accepted and rejected values, and agreement of YAML with the dataclasses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from alexnet_exp.errors import Refused
from alexnet_exp.optim import optimizers, schedules
from alexnet_exp.optim.krizhevsky import KrizhevskySGD
from alexnet_exp.optim.optimizer_spec import OPTIMIZERS, Adam, AdamW, Krizhevsky, Optimizer, Sgd
from alexnet_exp.optim.schedule_spec import SCHEDULES, Constant, Cosine, Duration, OneCycle, Plateau, Schedule, Steps

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Sgd(lr=-1), "lr=-1: must be greater than 0"),
        (lambda: Sgd(momentum=1.0), "momentum=1.0: must be at least 0 and below 1"),
        (lambda: Sgd(momentum=0, nesterov=True), "nesterov=true: needs momentum above 0; write optim.momentum=0.9"),
        (lambda: Sgd(name="adam"), "name=adam: one of sgd"),
        (lambda: Adam(betas=[0.9]), "betas=[0.9]: must be two numbers"),
        (lambda: Adam(betas=[0.9, 1.0]), "betas=[0.9, 1.0]: must be two numbers"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay=-0.1: must be at least 0"),
        (lambda: Adam(eps=0), "eps=0: must be greater than 0"),
        (lambda: Cosine(warmup="soon"), "warmup=soon: must be a number of epochs such as 5, or a part such as 5%"),
        (lambda: Cosine(warmup=True), "warmup=true: must be a number of epochs"),
        (lambda: Cosine(end=2), "end=2: must be from 0 to 1"),
        (lambda: OneCycle(warmup="130%"), "warmup=130%: must be a number of epochs"),
        (lambda: OneCycle(restarts=[3, "never"]), "restarts=[3, never]: must be epochs or parts of the run, such as"),
        (lambda: Cosine(restarts=[0]), "restarts=[0]: must be epochs or parts of the run, such as"),
        (lambda: Cosine(restart_from=1.5), "restart_from=1.5: must be from schedule.end to 1, and above 0"),
        (lambda: Cosine(end=0.5, restart_from=0.1), "restart_from=0.1: must be from schedule.end to 1"),
        (lambda: OneCycle(end=0.0, restart_from=0.0), "restart_from=0.0: must be from schedule.end to 1, and above 0"),
        (lambda: Steps(milestones=[]), "milestones=[]: must be epochs or parts of the run"),
        (lambda: Steps(milestones=[30, -1]), "milestones=[30, -1]: must be epochs or parts"),
        (lambda: Plateau(monitor="val/los"), "monitor=val/los: did you mean val/loss?"),
        (lambda: Plateau(monitor="test/top1"), "monitor=test/top1:"),
        (lambda: Krizhevsky(momentum=1.0), "momentum=1.0: must be at least 0 and below 1"),
        (lambda: Sgd(bias_lr=-1), "bias_lr=-1: must be at least 0"),
        (lambda: Sgd(layers={"fc8": {"lr": -1}}), "layers.fc8.lr=-1: must be at least 0"),
        (lambda: Sgd(layers={"fc8": {"lr": None}}), "layers.fc8.lr=null: must be a number: a multiple of optim.lr"),
        (lambda: Sgd(layers={"fc8": {"decay": 1}}), "layers.fc8.decay=1: "),
        (
            lambda: Constant(biases={"milestones": [1]}),
            "biases.factors=[]: must have one entry for each milestone (1)",
        ),
        (
            lambda: Constant(biases={"milestones": ["late"], "factors": [1]}),
            "biases.milestones=[late]: must be epochs or parts of the run, such as [67,72]",
        ),
        (
            lambda: Plateau(layers={"conv1": {"milestones": [1], "factors": [-0.1]}}),
            "layers.conv1.factors=[-0.1]: must be numbers of at least 0",
        ),
        (lambda: Cosine(layers={"conv1": {"factors": "0"}}), "layers.conv1.factors=0: must be numbers of at least 0"),
        (lambda: Cosine(layers={"conv1": {"biases": "no"}}), "layers.conv1.biases=no: must be true or false"),
        (lambda: Cosine(layers={"conv1": {"factor": [0]}}), "layers.conv1.factor=[0]: did you mean factors?"),
        (lambda: Plateau(factor=1.0), "factor=1.0: must be at least 0 and below 1"),
    ],
)
def test_an_error_has_the_setting_the_value_and_what_to_write(build, said):
    with pytest.raises(Refused) as refused:
        build()
    assert said in str(refused.value)


def test_all_problems_are_raised_together():
    with pytest.raises(Refused) as refused:
        Sgd(lr=0, weight_decay=-1, momentum=2)
    assert [problem.key for problem in refused.value.problems] == ["lr", "weight_decay", "momentum"]


@pytest.mark.parametrize(
    ("value", "steps"), [(5, 50), (0.5, 5), ("2", 20), ("30%", 30), ("7%", 7), ("12.5%", 12.5), (0, 0)]
)
def test_a_duration_is_epochs_or_a_part_of_the_run(value, steps):
    assert Duration.of(value).steps(total_steps=100, steps_per_epoch=10) == steps


@pytest.mark.parametrize("value", [None, True, "", "%", "fast", -1, "-5%", "101%", float("nan"), float("inf"), [5]])
def test_other_values_are_rejected_as_durations(value):
    with pytest.raises((TypeError, ValueError)):
        Duration.of(value)


@pytest.mark.parametrize(("group", "specs"), [("optim", OPTIMIZERS), ("schedule", SCHEDULES)])
def test_each_option_file_is_its_dataclass(group, specs):
    assert {path.stem for path in (CONF / group).glob("*.yaml")} >= set(specs)
    for name, spec in specs.items():
        text = (CONF / group / f"{name}.yaml").read_text()
        for head in ("# Purpose: ", "# Command: python -m alexnet_exp ", "# Expected: ", "# Cost: "):
            assert head in text
        option = yaml.safe_load(text)
        assert option.pop("defaults") == [f"/schema/{group}/{name}@_here_", "_self_"]
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(spec), option))
        assert isinstance(merged, spec)
        assert merged.name == name


def test_the_schema_rejects_wrong_types_and_runs_the_checks():
    with pytest.raises(Exception, match="could not be converted to Float"):
        OmegaConf.merge(OmegaConf.structured(Sgd), {"lr": "abc"})
    with pytest.raises(Refused, match="lr=-1"):
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sgd), {"lr": -1}))


def test_settings_and_schedules_do_not_import_torch():
    code = "import sys, alexnet_exp.optim.optimizer_spec, alexnet_exp.optim.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("spec", OPTIMIZERS.values())
def test_settings_name_the_optimizer_that_is_built(spec):
    net = torch.nn.Linear(1, 1)
    built = type(optimizers.build_optimizer(spec(), net))
    (named,) = re.findall(r"Configures `(?:torch\.optim\.)?(\w+)`", spec.__doc__)
    assert named == built.__name__


def test_settings_and_what_is_built_name_each_other():
    assert "`Krizhevsky` of optim/optimizer_spec.py" in KrizhevskySGD.__doc__
    assert "optim/krizhevsky.py" in Krizhevsky.__doc__
    assert "`build_optimizer` of optim/optimizers.py" in Optimizer.__doc__
    assert "optimizer_spec.py" in optimizers.__doc__
    assert "`factor` of optim/schedules.py" in Schedule.__doc__
    assert "`plateau_factor` of optim/schedules.py" in Plateau.__doc__
    assert "schedule_spec.py" in schedules.__doc__
    assert all(hasattr(schedules, name) for name in ("factor", "plateau_factor"))
