"""Plain containers to typed settings: what is refused, in which words, and how much of it at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from alexnet_exp.config import nodes
from alexnet_exp.config.compose import compose
from alexnet_exp.config.nodes import read_node
from alexnet_exp.config.schema import Csv, Ema, OnNan, Trainer, Which
from alexnet_exp.config.suggestions import suggest_setting
from alexnet_exp.config.user_class import ALLOW_VARIABLE
from alexnet_exp.config.validate import is_same_experiment, validate
from alexnet_exp.data.spec import Digits
from alexnet_exp.errors import Refused
from alexnet_exp.model.spec import Network
from alexnet_exp.optim.optimizer_spec import AdamW
from alexnet_exp.optim.schedule_spec import OneCycle

DEFAULT = compose([])


def changed(**settings: Any) -> dict[str, Any]:
    """The default configuration with dotted keys set: `changed(**{"optim.lr": 3})`."""
    container = copy.deepcopy(DEFAULT)
    for dotted, value in settings.items():
        *path, last = dotted.split(".")
        node = container
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return container


def problems(**settings: Any) -> list[str]:
    with pytest.raises(Refused) as refused:
        validate(changed(**settings))
    return str(refused.value).splitlines()


def test_every_node_comes_out_as_its_own_dataclass() -> None:
    config = validate(DEFAULT)
    kinds = [type(node) for node in (config.model, config.data, config.optim, config.schedule, config.trainer)]
    assert kinds == [Network, Digits, AdamW, OneCycle, Trainer]
    assert config.logger == {"csv": Csv()}
    assert config.test.checkpoint is Which.best


def test_what_was_set_arrives_and_the_rest_is_the_default() -> None:
    config = validate(changed(**{"optim.lr": 0.5, "callbacks.ema": {"name": "ema", "decay": 0.9}, "seed": 7}))
    assert (config.optim.lr, config.optim.weight_decay, config.seed) == (0.5, AdamW().weight_decay, 7)
    assert config.callbacks == {"ema": Ema(decay=0.9)}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"trainer.max_epoch": 3}, "trainer.max_epoch=3: unknown setting; did you mean trainer.max_epochs?"),
        ({"trainer.lrr": 1}, "trainer.lrr=1: unknown setting; did you mean optim.lr?"),
        # another option of the group has it: no advice to write what was written
        (
            {"optim.nesterov": True},
            "optim.nesterov=true: unknown setting; optim=adamw has no nesterov; add optim=sgd",
        ),
        ({"model.lrn.alhpa": 1}, "model.lrn.alhpa=1: unknown setting; did you mean model.lrn.alpha?"),
        (
            {"model.stages.conv1.kernal": 3},
            "model.stages.conv1.kernal=3: unknown setting; did you mean model.stages.conv1.kernel?",
        ),
        ({"loss.zebra": 1}, "loss.zebra=1: unknown setting; there are label_smoothing"),
        ({"optim.lr": "abc"}, "optim.lr=abc: must be a number"),
        ({"trainer.max_epochs": 3.5}, "trainer.max_epochs=3.5: must be a whole number, or null"),
        ({"data.mirror": "often"}, "data.mirror=often: must be true or false"),
        ({"model.norm": "bnn"}, "model.norm=bnn: did you mean bn? one of lrn, bn, none"),
        ({"tags": "a"}, "tags=a: must be a list, such as [a,b]"),
        ({"optim.betas": 1}, "optim.betas=1: must be a list, such as [1,2]"),
        ({"model.lrn": 3}, "model.lrn=3: must be a group of settings, not one value"),
        ({"model": "lrn"}, "model=lrn: must be a group of settings; write model=NAME"),
        ({"callbacks": [1]}, "callbacks=[1]: must be a group of settings; write callbacks=NAME"),
        ({"optim.name": "sgdd"}, "optim.name=sgdd: did you mean sgd? one of sgd, krizhevsky, adam, adamw, muon"),
        ({"callbacks.ema.decay": 0.9}, "callbacks.ema: is not among the callbacks chosen; add it with callbacks=ema"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"name": "a/b"}, "name=a/b: must be a folder's name: no slash, no comma, no equals sign"),
        ({"trainer._target_": "os.system"}, "trainer._target_=os.system: trainer takes no class of your own"),
        (
            {"schedule.biases": {"milestones": ["50%"], "factors": []}},
            "schedule.biases.factors=[]: must have one entry for each milestone (1)",
        ),
        (
            {"schedule.layers": {"conv1": {"factor": [0]}}},
            "schedule.layers.conv1.factor=[0]: did you mean factors? one of milestones, factors, biases",
        ),
        ({"schedule.layers": {"conv1": 0.5}}, "schedule.layers.conv1=0.5: must be a group of settings, not one value"),
        ({"data.pca_epochs": -1}, "data.pca_epochs=-1: must be at least 0"),
        # contradictions
        (
            {"schedule.layers": {"conv9": {"milestones": [3], "factors": [0]}}},
            "schedule.layers.conv9: the network has no such stage; did you mean conv5? one of "
            "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8",
        ),
        (
            {"optim": {"name": "muon"}, "trainer.strategy": "fsdp"},
            "trainer.strategy=fsdp: does not go with optim=muon, which needs whole matrices on each rank; write ddp",
        ),
        (
            {"data.mirror": False, "data.mirror_alternately": True},
            "data.mirror_alternately=true: needs data.mirror=true",
        ),
        ({"trainer.min_epochs": 30}, "trainer.min_epochs=30: must be at most trainer.max_epochs=10"),
        (
            {"data.val": "none", "callbacks.e": {"name": "early_stopping"}},
            "callbacks.e.monitor=val/top1: there is no validation; write data.val=split, or monitor train/top1",
        ),
        (
            {"data.val": "none", "schedule": {"name": "plateau"}},
            "schedule.monitor=val/loss: there is no validation; write data.val=split, or monitor train/loss",
        ),
        (
            {"trainer.limit_val_batches": 0, "callbacks.e": {"name": "early_stopping"}},
            "callbacks.e.monitor=val/top1: trainer.limit_val_batches=0 leaves no validation; "
            "write 1 batch or more, or null, or monitor train/top1",
        ),
        (
            {"trainer.limit_val_batches": 0.0, "schedule": {"name": "plateau"}},
            "schedule.monitor=val/loss: trainer.limit_val_batches=0 leaves no validation; "
            "write 1 batch or more, or null, or monitor train/loss",
        ),
        (
            {"trainer.check_val_every_n_epoch": 11, "schedule": {"name": "plateau"}},
            "schedule.monitor=val/loss: trainer.check_val_every_n_epoch=11 of 10 epochs leaves no validation; "
            "write 10 or less, or monitor train/loss",
        ),
        (
            {"trainer.limit_train_batches": 0},
            "trainer.limit_train_batches=0: trains nothing; write 1 batch or more, or null",
        ),
        (
            {"callbacks.e": {"name": "early_stopping", "monitor": "val/tpo1"}},
            "callbacks.e.monitor=val/tpo1: did you mean val/top1? "
            "one of train/loss, train/top1, val/loss, val/top1, val/top5",
        ),
        (
            {"callbacks.e": {"name": "early_stopping", "monitor": "val/top1_precise_bn"}},
            "callbacks.e.monitor=val/top1_precise_bn: one of train/loss, train/top1, val/loss, val/top1, val/top5",
        ),
        (
            {"data.val": "none", "callbacks.e": {"name": "early_stopping", "monitor": "train/los"}},
            "callbacks.e.monitor=train/los: did you mean train/loss? "
            "one of train/loss, train/top1, val/loss, val/top1, val/top5",
        ),
        (
            {"callbacks": {"e": {"name": "ema"}, "p": {"name": "precise_bn"}}},
            "callbacks.p: would compare the trained weights with the average that callbacks.e validates; choose one",
        ),
        (
            {"callbacks": {"e": {"name": "ema"}, "t": {"name": "train_error"}}},
            "callbacks.t: would measure the trained weights and not the average that callbacks.e makes; choose one",
        ),
        (
            {"callbacks": {"t": {"name": "train_error", "stop": True, "target": None}}},
            "callbacks.t.stop=true: needs a target, such as 0.25",
        ),
        ({"callbacks": {"t": {"name": "train_error", "target": 1.2}}}, "callbacks.t.target=1.2: must be from 0 to 1"),
        ({"trainer.precision": "bf16"}, "trainer.precision=bf16: write bf16-mixed"),
        ({"trainer.precision": "16"}, "trainer.precision=16: write 16-mixed"),
        ({"trainer.precision": "32"}, "trainer.precision=32: write 32-true"),
        ({"trainer.precision": "64"}, "trainer.precision=64: write 64-true"),
        (
            {"trainer.precision": "transformer-engine"},
            "trainer.precision=transformer-engine: one of "
            "auto, 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true",
        ),
        ({"trainer.accelerator": "tpu"}, "trainer.accelerator=tpu: one of auto, cpu, gpu, cuda, mps"),
        (
            {"trainer.max_epochs": None, "trainer.max_time": "00:01:00:00"},
            "trainer.max_epochs=null: schedule=one_cycle needs the run's length; write a number of epochs",
        ),
    ],
)
def test_one_problem_is_one_line(settings: dict[str, Any], line: str) -> None:
    assert problems(**settings) == [line]


@pytest.mark.parametrize(
    "callbacks",
    [
        *({"e": {"name": "early_stopping", "monitor": monitor}} for monitor in ("val/top5", "train/loss")),
        {"e": {"name": "early_stopping", "monitor": "val/loss_precise_bn"}, "p": {"name": "precise_bn"}},
        {"e": {"name": "early_stopping", "monitor": "train/top1_eval"}, "t": {"name": "train_error"}},
    ],
)
def test_what_is_logged_can_be_monitored(callbacks: dict[str, Any]) -> None:
    assert validate(changed(callbacks=callbacks)).callbacks["e"].monitor == callbacks["e"]["monitor"]


def test_a_class_of_the_users_may_log_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "pytorch_lightning")
    mine = {"_target_": "pytorch_lightning.callbacks.LambdaCallback"}
    stopping = {"name": "early_stopping", "monitor": "val/f1"}
    assert validate(changed(callbacks={"e": stopping, "mine": mine})).callbacks["e"].monitor == "val/f1"


def test_all_problems_of_all_nodes_are_told_at_once() -> None:
    lines = problems(
        **{
            "sede": 3,
            "optim.lr": "abc",
            "optim.momentm": 1,
            "trainer.max_epochs": 3.5,
            "trainer.gpu": 1,
            "data.batch_size": 0,
            "model.width": 0,
            "model.stages.conv2.out": "many",
            "schedule.warmup": "a while",
            "logger.t": {"name": "tensorbord"},
            "loss.label_smoothing": 2,
        }
    )
    told = {line.partition("=")[0] for line in lines}
    assert told == {
        *("sede", "optim.lr", "optim.momentm", "trainer.max_epochs", "trainer.gpu", "data.batch_size", "model.width"),
        *("model.stages.conv2.out", "schedule.warmup", "logger.t.name", "loss.label_smoothing"),
    }
    assert len(lines) == len(told)


@pytest.mark.parametrize(
    ("schedule", "endless"),
    [
        ({"name": "constant"}, True),
        ({"name": "constant", "warmup": "5%"}, False),
        ({"name": "steps", "milestones": [3, 6]}, True),
        ({"name": "steps"}, False),
        ({"name": "plateau"}, True),
        ({"name": "cosine"}, False),
    ],
)
def test_a_run_without_an_end_takes_schedules_that_need_none(schedule: dict[str, Any], endless: bool) -> None:
    settings = {"schedule": schedule, "trainer.max_epochs": None, "trainer.max_time": "00:01:00:00"}
    if endless:
        assert validate(changed(**settings)).schedule.name == schedule["name"]
    else:
        assert problems(**settings)[0].startswith("trainer.max_epochs=null: ")


def test_a_null_entry_of_a_collection_is_left_out() -> None:
    assert validate(changed(**{"logger.csv": None})).logger == {}


def test_stages_need_an_optimizer_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_EXP_ALLOW", "torch")
    stages = {"milestones": [3], "factors": [0]}
    found = problems(**{"optim": {"_target_": "torch.optim.SGD"}, "schedule.layers": {"conv1": stages}})
    own = "torch.optim.SGD has parameter groups of its own"
    assert found == [f"schedule.layers: {own}; choose one of our optimizers, or leave it out"]


@pytest.mark.parametrize(
    ("key", "advice"),
    [("lr", "did you mean optim.lr?"), ("batchsize", "did you mean data.batch_size?"), ("zebra", None)],
)
def test_a_setting_is_found_wherever_it_is(key: str, advice: str | None) -> None:
    assert suggest_setting(key, 1) == advice


def test_two_configurations_of_one_container_share_nothing() -> None:
    first = validate(changed(seed=5))
    first.trainer.max_epochs = 77
    assert isinstance(first.model, Network)
    del first.model.stages["conv1"]
    second = validate(changed(seed=5))
    assert second.trainer.max_epochs != 77
    assert isinstance(second.model, Network)
    assert "conv1" in second.model.stages


def test_settings_that_only_look_alike_are_not_taken_for_each_other() -> None:
    assert validate(changed(**{"trainer.max_epochs": 1})).trainer.max_epochs == 1
    assert problems(**{"trainer.max_epochs": 1.5}) == problems(**{"trainer.max_epochs": 1.5})
    assert validate(changed(**{"test.run": True})).test.run is True
    assert problems(**{"optim.lr": -1})[0].startswith("optim.lr=-1")
    assert problems(**{"optim.lr": -1})[0].startswith("optim.lr=-1"), "what is refused once is refused again"


@pytest.mark.parametrize("overrides", [[], ["model=paper", "optim=krizhevsky", "data=cifar10", "callbacks=[ema]"]])
def test_composed_nodes_are_read_as_omegaconf_reads_them(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    container = compose(overrides)
    by_omegaconf: list[type] = []

    def read(cls: type, node: Mapping[str, Any], prefix: str) -> Any:
        exact, converted = nodes.read_node(cls, node, prefix), converting(cls, node, prefix)
        assert repr(exact) == repr(converted)
        return converted

    def convert(cls: type, node: Mapping[str, Any], prefix: str) -> Any:
        by_omegaconf.append(cls)
        return converting(cls, node, prefix)

    converting = nodes._merged_node
    monkeypatch.setattr(nodes, "_merged_node", convert)
    monkeypatch.setattr("alexnet_exp.config.validate.read_node", read)
    validate(container)
    assert by_omegaconf == [], "none of them takes the slow way"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_epochs": "3", "gradient_clip_val": 1}, {"max_epochs": 3, "gradient_clip_val": 1.0}),
        ({"detect_anomaly": "true", "precision": "32-true"}, {"detect_anomaly": True, "precision": "32-true"}),
        ({"on_nan": "skip", "max_time": None}, {"on_nan": OnNan.skip, "max_time": None}),
    ],
)
def test_values_of_another_type_are_converted(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_node(Trainer, settings, "trainer") == Trainer(**expected)


@dataclass
class Inner:
    first: int = 1
    second: int = 2


@dataclass
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(5, 6))


def test_a_nested_node_keeps_the_defaults_of_its_field() -> None:
    """They may differ from the defaults of its class."""
    assert read_node(Outer, {"inner": {"first": 7}}, "outer") == Outer(Inner(7, 6))


def test_the_mode_of_early_stopping_may_be_left_to_its_monitor_or_said() -> None:
    """An earlier version wrote `max` where null says the same."""
    left = compose(["callbacks=early_stopping"])
    said = compose(["callbacks=early_stopping", "callbacks.early_stopping.mode=max"])
    other = compose(["callbacks=early_stopping", "callbacks.early_stopping.mode=min"])
    assert is_same_experiment(said, validate(left))
    assert not is_same_experiment(other, validate(left))
