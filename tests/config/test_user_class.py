"""Classes of a user's own: found where they are allowed, refused in one line where not, never run unchecked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from alexnet_exp.__main__ import main
from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.schema import COLLECTIONS
from alexnet_exp.config.user_class import ALLOW_VARIABLE, ROLES, UserClass, allow_packages, allowed_packages
from alexnet_exp.errors import Refused
from alexnet_exp.runs.reader import read_metrics, read_result
from alexnet_exp.training.build import build
from alexnet_exp.training.train import train

SOURCE = '''
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import Logger
from torch import nn

MADE = []


class Net(nn.Module):
    def __init__(self, num_classes, in_channels, maps=4):
        super().__init__()
        first = nn.Conv2d(in_channels, maps, 5, stride=4)
        self.body = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))
        self.body(torch.zeros(1, in_channels, 32, 32))

    def forward(self, images):
        return self.body(images)


class Anything(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.settings = settings


class Greedy(nn.Module):
    def __init__(self, secret):
        super().__init__()


class Opt(torch.optim.SGD):
    def __init__(self, params, lr=0.05):
        super().__init__(params, lr=lr)


class Halved(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer, every):
        super().__init__(optimizer, lambda step: 0.5 ** (step // every))


class Counter(pl.Callback):
    def __init__(self, said="hello"):
        self.said, self.batches = said, 0
        MADE.append(self)

    def on_train_batch_end(self, *_):
        self.batches += 1


class Keeper(Logger):
    def __init__(self):
        self.parameters, self.rows = {}, []
        MADE.append(self)

    name, version = "keeper", 0

    def log_hyperparams(self, params, *args, **kwargs):
        self.parameters |= params

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)


class Plain(pl.LightningModule):
    """Trains by a recipe of its own: plain SGD on the parts that it was handed."""

    def __init__(self, network, preprocess, lr=0.1):
        super().__init__()
        self.network, self.preprocess, self.lr = network, preprocess, lr

    def forward(self, images):
        return self.network(self.preprocess(images))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/top1", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("test/top1", (logits.argmax(1) == batch[1]).float().mean())
        return logits

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Bare(pl.LightningDataModule):
    """Nothing of ours: 24 noise images whose class is their brightness."""

    def __init__(self, batch=8):
        super().__init__()
        self.batch = batch

    def loader(self):
        labels = torch.arange(24) % 3
        noise = torch.randint(0, 40, (24, 1, 32, 32), generator=torch.Generator().manual_seed(0))
        images = (noise + 80 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), self.batch)

    train_dataloader = val_dataloader = test_dataloader = loader


class Untested(Bare):
    test_dataloader = pl.LightningDataModule.test_dataloader


def function():
    MADE.append("run")
'''


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `mine` in the working folder, allowed; nothing else is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(SOURCE)
    (tmp_path / "mine" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "mine" / "needs.py").write_text("import no_such_package.part\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    monkeypatch.setenv(ALLOW_VARIABLE, "mine")


def made(kind: str) -> Any:
    return next(each for each in sys.modules["mine"].MADE if type(each).__name__ == kind)


def refused(role: str, **node: Any) -> list[str]:
    with pytest.raises(Refused) as problems:
        UserClass(role, node, role)
    return str(problems.value).splitlines()


# --- what is refused


def test_a_package_that_is_not_allowed_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "other")
    (line,) = refused("model", _target_="mine.Net")
    advice = f"add --allow mine to the command, or set {ALLOW_VARIABLE}=mine"
    assert line == f"model._target_=mine.Net: package mine is not allowed; {advice}"
    assert "mine" not in sys.modules


def test_a_name_that_begins_like_an_allowed_package_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "min,mine.sub")
    assert "not allowed" in refused("model", _target_="mine.Net")[0]


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_shell_command_is_refused_even_where_torch_is_allowed(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `hydra.utils.instantiate` would run: the function takes a command line and gives it to a shell."""
    import torch.utils.collect_env

    def ran(*_: Any) -> None:
        raise AssertionError("it was called")

    monkeypatch.setattr(torch.utils.collect_env, "run", ran)
    node = {"_target_": "torch.utils.collect_env.run", "command": "touch owned"}
    assert "package torch is not allowed" in refused(role, **node)[0]
    allow_packages(["torch"])
    (line,) = refused(role, **node)
    assert line == f"{role}._target_=torch.utils.collect_env.run: must be a subclass of {ROLES[role].base}"


@pytest.mark.parametrize("target", ["subprocess.Popen", "builtins.eval", "torch.save", "os.system", "os._exit"])
@pytest.mark.parametrize("role", sorted(ROLES))
def test_what_is_no_class_of_the_role_is_not_called_wherever_it_is_allowed(role: str, target: str) -> None:
    """A package's name is no boundary: each of these is in one that somebody may have allowed."""
    allow_packages(["subprocess", "builtins", "torch", "os"])
    assert refused(role, _target_=target, args="touch owned") == [
        f"{role}._target_={target}: must be a subclass of {ROLES[role].base}"
    ]


def test_a_target_inside_an_argument_is_a_plain_value() -> None:
    node = {"_target_": "mine.Anything", "inner": {"_target_": "os.system", "command": "touch owned"}}
    assert UserClass("model", node, "model").build().settings == {"inner": node["inner"]}
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("role", "node", "line"),
    [
        ("model", {"_target_": "mine.Nett"}, "model._target_=mine.Nett: mine has no Nett; did you mean Net?"),
        ("model", {"_target_": "mine.Opt"}, "model._target_=mine.Opt: must be a subclass of torch.nn.Module"),
        ("model", {"_target_": "mine.function"}, "model._target_=mine.function: must be a subclass of torch.nn.Module"),
        (
            "model",
            {"_target_": "Net"},
            "model._target_=Net: must be a class with its package, such as my_package.MyClass",
        ),
        ("model", {"_target_": 3}, "model._target_=3: must be a class with its package, such as my_package.MyClass"),
        (
            "model",
            {"_target_": "mine.nowhere.Net"},
            "model._target_=mine.nowhere.Net: No module named 'mine.nowhere'; "
            "type python -m alexnet_exp in the folder that holds mine, or install it",
        ),
        (
            "model",
            {"_target_": "mine.needs.Net"},
            "model._target_=mine.needs.Net: mine.needs imports no_such_package, which is not installed",
        ),
        (
            "model",
            {"_target_": "mine.broken.Net"},
            "model._target_=mine.broken.Net: cannot be imported: ZeroDivisionError: division by zero",
        ),
        ("model", {"_target_": "mine.Net", "map": 3}, "model.map=3: Net has no such argument; did you mean maps?"),
        (
            "model",
            {"_target_": "mine.Net", "zebra": 3},
            "model.zebra=3: Net has no such argument; it takes num_classes, in_channels, maps",
        ),
        ("model", {"_target_": "mine.Greedy"}, "model.secret=null: Greedy needs this argument"),
        ("optim", {"_target_": "mine.Opt", "params": 3}, "optim.params=3: Opt has no such argument; it takes lr"),
        ("schedule", {"_target_": "mine.Halved"}, "schedule.every=null: Halved needs this argument"),
    ],
)
def test_what_does_not_fit_is_one_line(role: str, node: dict[str, Any], line: str) -> None:
    assert refused(role, **node) == [line]


def test_all_arguments_that_do_not_fit_are_told_at_once() -> None:
    assert len(refused("model", _target_="mine.Net", map=3, class_count=2)) == 2


def test_a_class_that_takes_any_argument_takes_any() -> None:
    node = {"_target_": "mine.Anything", "whatever": 1}
    assert UserClass("model", node, "model").build().settings == {"whatever": 1}


def test_allowing_adds_to_what_is_allowed() -> None:
    allow_packages(["other", "mine"])
    assert allowed_packages() == {"mine", "other"}


# --- what is built


def test_offered_arguments_go_to_those_that_take_them_and_the_configurations_own_win() -> None:
    spec = UserClass("model", {"_target_": "mine.Net", "maps": 2}, "model")
    network = spec.build(num_classes=5, in_channels=1, input_size=32)
    assert network.body[0].weight.shape == (2, 1, 5, 5)
    assert network.body[3].out_features == 5
    assert (spec.setting("maps"), spec.setting("num_classes"), spec.setting("zebra")) == (2, None, None)
    pinned = UserClass("model", {"_target_": "mine.Net", "num_classes": 7}, "model")
    assert pinned.build(num_classes=5, in_channels=1).body[3].out_features == 7
    assert pinned.setting("maps") == 4


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Trains two epochs of three batches with `nodes`, each an option of its group; returns the run folder."""

    def trained(nodes: dict[str, Any], *overrides: str) -> Path:
        for group, node in nodes.items():
            (tmp_path / "yaml" / group).mkdir(parents=True)
            head = f"# @package {group}.own\n" if group in COLLECTIONS else ""
            (tmp_path / "yaml" / group / "own.yaml").write_text(head + yaml.safe_dump(node))
        chosen = [f"+{group}=own" if group == "module" else f"{group}=own" for group in nodes]
        limits = ["trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.gpus=0"]
        width = [] if "model" in nodes else ["model.width=0.02"]
        container = compose_run([*chosen, *limits, *width, *overrides], str(tmp_path / "yaml")).container
        path = tmp_path / "outputs" / "own" / "run"
        (path / ".hydra").mkdir(parents=True)
        (path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(container))
        assert train(container, path) == 0
        return path

    return trained


def test_a_users_optimizer_schedule_logger_and_callback_run(run: Callable[..., Path]) -> None:
    path = run(
        {
            "optim": {"_target_": "mine.Opt", "lr": 0.04},
            "schedule": {"_target_": "mine.Halved", "every": 3},
            "logger": {"_target_": "mine.Keeper"},
            "callbacks": {"_target_": "mine.Counter", "said": "hi"},
        },
        "data.val=none",
    )
    counter, keeper = made("Counter"), made("Keeper")
    assert (counter.said, counter.batches) == ("hi", 6)
    assert keeper.parameters["optim.lr"] == 0.04
    assert any("test/top1" in row for row in keeper.rows)
    rows = read_metrics(path)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["lr"] == pytest.approx(0.04)  # of the last of three steps, after which it is halved
    assert rows[1]["lr"] == pytest.approx(0.02)


def test_a_users_lightning_module_is_handed_the_parts(run: Callable[..., Path]) -> None:
    path = run({"module": {"_target_": "mine.Plain", "lr": 0.05}})
    result = read_result(path)
    assert result["status"] == "done"
    assert 0 <= result["metrics"]["test/top1"] <= 1
    assert (path / "predictions" / "test.npz").exists()


def test_a_users_data_module_and_network_run_and_evaluate_alike(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain LightningDataModule says nothing of itself: the model says its ends, the pixels are measured."""
    path = run({"data": {"_target_": "mine.Bare"}}, "model.input_size=32", "model.in_channels=1", "model.num_classes=3")
    result = read_result(path)
    capsys.readouterr()
    assert main(["eval", str(path)]) == 0
    assert f'"test/top1": {result["metrics"]["test/top1"]}' in capsys.readouterr().out
    assert main(["eval", str(path), "--split", "val"]) == 2
    assert (
        capsys.readouterr().err
        == "eval: --split val needs a data module that subclasses ImageData; mine.Bare does not\n"
    )
    mean = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["preprocess.mean"]
    assert mean.item() == pytest.approx(80 + 19.5, abs=1)


def test_a_data_module_that_says_nothing_needs_a_model_that_does(tmp_path: Path) -> None:
    (tmp_path / "yaml" / "data").mkdir(parents=True)
    (tmp_path / "yaml" / "data" / "bare.yaml").write_text("_target_: mine.Bare\n")
    (tmp_path / "yaml" / "data" / "untested.yaml").write_text("_target_: mine.Untested\n")
    with pytest.raises(Refused) as problems:
        compose_run(["data=bare", "model.input_size=32"], "yaml")
    assert [problem.key for problem in problems.value.problems] == ["data.facts"]
    assert "how many classes there are and how many channels its images have;" in str(problems.value)
    with pytest.raises(Refused, match=r"test.run=true: mine.Untested has no test_dataloader; write test.run=false"):
        compose_run(["data=untested"], "yaml")


def test_a_users_network_is_built_with_the_datas_ends() -> None:
    Path("yaml/model").mkdir(parents=True)
    Path("yaml/model/net.yaml").write_text("_target_: mine.Net\nmaps: 3\n")
    config = compose_run(["model=net"], "yaml").config
    experiment = build(config)
    assert experiment.network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert experiment.card["model"] == {"_target_": "mine.Net", "maps": 3}


def test_a_run_folder_cannot_allow_itself(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run({"model": {"_target_": "mine.Net"}})
    capsys.readouterr()
    monkeypatch.setenv(ALLOW_VARIABLE, "")
    config = path / ".hydra" / "config.yaml"
    config.write_text(config.read_text() + "allow: [mine]\n")
    result = json.loads((path / "result.json").read_text())
    result["config"]["allow"] = ["mine"]  # else the two are said to be of different runs
    (path / "result.json").write_text(json.dumps(result))
    for command in (
        ["eval", str(path)],
        ["predict", str(path), str(config)],
        ["export", str(path), "--format", "safetensors"],
    ):
        assert main(command) == 2
        assert "package mine is not allowed" in capsys.readouterr().err
