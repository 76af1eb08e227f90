"""Tests of a user's LightningDataModule: its facts, its first batches, and images that it scales itself."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from alexnet_exp.__main__ import main
from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.user_class import ALLOW_VARIABLE
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.inference.classifier import load
from alexnet_exp.runs.reader import read_result
from alexnet_exp.training.batch_checks import ExpectedBatch, first_batches
from alexnet_exp.training.build import build, prepare
from alexnet_exp.training.train import train

SOURCE = '''
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Net(nn.Module):
    """Takes no input size: it averages over the image."""

    seen = []

    def __init__(self, num_classes, in_channels, maps=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, maps, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(maps, num_classes),
        )

    def forward(self, images):
        if self.training:
            self.seen.append((float(images.min()), float(images.max())))
        return self.body(images)


class Fixed(Net):
    def __init__(self):
        super().__init__(3, 1)


class Unpooled(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 3)

    def forward(self, images):
        return self.conv(images)


class Broken(Net):
    def forward(self, images):
        raise ValueError("no images today")


class Numeric(Net):
    """Asks for a number while it is made, which torch's meta device has not."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.scale = nn.Parameter(torch.tensor(self.body[0].weight.max().item()))

    def forward(self, images):
        return self.scale * self.body(images)


class Few(Net):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes - 1, in_channels)


class Tupled(Net):
    def forward(self, images):
        return self.body(images), images


class Pairs(Dataset):
    def __init__(self, make, n):
        self.items = [make(image, label) for image, label in zip(*drawn(n))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def drawn(n):
    """Bytes [n, 1, 16, 16] whose class is their brightness."""
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 40, (n, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    return (noise + 80 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


class Bytes(pl.LightningDataModule):
    """What a split gives is `train`, `val` and `test` of an image and a label."""

    def __init__(self, batch_size=8):
        super().__init__()
        self.batch_size, self.stages = batch_size, []

    def setup(self, stage):
        self.stages.append(stage)

    def train(self, image, label):
        return image, label

    val = test = train

    def train_dataloader(self):
        return DataLoader(Pairs(self.train, 24), self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Pairs(self.val, 12), self.batch_size)

    def test_dataloader(self):
        assert "test" in self.stages
        return DataLoader(Pairs(self.test, 9), self.batch_size)


class Floats(Bytes):
    """As ToTensor gives them."""

    def train(self, image, label):
        return image / 255, label

    val = test = train


def variant(name, train, val=None, test=None):
    globals()[name] = type(name, (Bytes,), {"train": train, "val": val or train, "test": test or val or train})


def plain(self, image, label):
    return image, label


variant("Dicts", lambda self, image, label: {"image": image, "label": label})
variant("Threes", lambda self, image, label: (image, label, 0))
variant("ChannelsLast", lambda self, image, label: (image.permute(1, 2, 0), label))
variant("Flat", lambda self, image, label: (image[0], label))
variant("Lists", lambda self, image, label: (image.flatten(), label))
variant("Numbers", lambda self, image, label: (image.long(), label))
variant("OneHot", lambda self, image, label: (image, torch.nn.functional.one_hot(label, 3)))
variant("Column", lambda self, image, label: (image, label[None]))
variant("ShortLabels", lambda self, image, label: (image, label.int()))
variant("FourClasses", lambda self, image, label: (image, label + 1))
variant("Negative", lambda self, image, label: (image, label - 1))
variant("Coloured", lambda self, image, label: (image.expand(3, -1, -1), label))
variant("Large", lambda self, image, label: (image.repeat(1, 2, 2), label))
variant("DictsInVal", plain, lambda self, image, label: {"image": image, "label": label}, plain)
variant("ThreesInTest", plain, plain, lambda self, image, label: (image, label, 0))
variant("FloatsInTest", plain, plain, lambda self, image, label: (image / 255, label))
variant("LargeInTraining", lambda self, image, label: (image.repeat(1, 2, 2), label), plain)


class Wide(Bytes):
    def train(self, image, label):
        return image.repeat(1, 1, 2), label

    val = test = train


class TwoValidations(Bytes):
    def val_dataloader(self):
        return [super().val_dataloader()] * 2


class Empty(Bytes):
    def train_dataloader(self):
        return DataLoader(Pairs(self.train, 4), 8, drop_last=True)


class Stream(Bytes):
    def train_dataloader(self):
        class Images(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(zip(*drawn(24)))

        return DataLoader(Images(), 8)


class Told(Bytes):
    facts = {"classes": ["dark", "grey", "light"], "channels": 1, "size": 16}
'''

FACTS = {"classes": 3, "channels": 1, "size": 16}
SMALL = ("trainer=cpu", "trainer.max_epochs=1", "trainer.precision=32-true")


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `lab` in the working folder, allowed, and one YAML file for each of its classes."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text(SOURCE)
    for group, names in {
        "model": ("Net", "Fixed", "Unpooled", "Broken", "Numeric", "Few", "Tupled"),
        "data": (*re.findall(r"^class (\w+)\(Bytes\)", SOURCE, re.M), *re.findall(r'^variant\("(\w+)"', SOURCE, re.M)),
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        for name in (*names, *(["Bytes"] if group == "data" else [])):
            option(group, name, {"_target_": f"lab.{name}"}, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]
    monkeypatch.setenv(ALLOW_VARIABLE, "lab")


def option(group: str, name: str, node: dict[str, Any], folder: Path | None = None) -> None:
    file = (folder or Path()) / "conf" / group / f"{name}.yaml"
    file.write_text(yaml.safe_dump(node))


def with_facts(name: str, facts: Any = FACTS) -> str:
    option("data", f"{name}_said", {"_target_": f"lab.{name}", "facts": facts})
    return f"data={name}_said"


def check(*overrides: str) -> int:
    return main(["check", "--config-dir", "conf", *SMALL, *overrides])


@pytest.fixture
def run() -> Callable[..., Path]:
    def trained(*overrides: str) -> Path:
        container = compose_run([*SMALL, *overrides], "conf").container
        path = Path("outputs") / "own" / "run"
        (path / ".hydra").mkdir(parents=True)
        (path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(container))
        assert train(container, path) == 0, (path / "train.log").read_text()
        return path

    return trained


# --- facts


def test_missing_facts_are_an_error_with_the_lines_to_add(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("model=Net", "data=Bytes") == 2
    assert capsys.readouterr().err.splitlines() == [
        "data.facts=null: lab.Bytes does not say how many classes there are and how many channels its images have; "
        "add a line to its YAML, of your numbers: facts: {classes: 10, channels: 3, size: 32}"
    ]
    assert check("model=bn", "data=Bytes") == 2
    assert "and how large its images are; add a line" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["Net", "Fixed", "bn"])
def test_facts_in_yaml_allow_any_network(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    width = ["model.width=0.02"] if model == "bn" else []
    assert check(f"model={model}", with_facts("Bytes"), *width) == 0
    assert capsys.readouterr().out.startswith("ok: ")


def test_input_size_is_not_passed_to_a_class_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What examples/README promises: the model's YAML says what its class takes, and the data module nothing."""
    option("model", "said", {"_target_": "lab.Net", "num_classes": 3, "in_channels": 1})
    assert check("model=said", "data=Bytes") == 0
    assert capsys.readouterr().out.startswith("ok: Net on ")


def test_facts_may_be_a_class_attribute() -> None:
    experiment = build(compose_run(["model=Net", "data=Told"], "conf").config)
    assert experiment.card["classes"] == ["dark", "grey", "light"]
    assert (experiment.card["input_size"], experiment.card["in_channels"]) == (16, 1)
    config = compose_run(["model=Net", with_facts("Told", {"classes": 4, "channels": 1, "size": 16})], "conf").config
    assert build(config).card["classes"] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"classes": 3, "channels": 1}, "data.facts.size=null: must be a whole number of at least 1"),
        (FACTS | {"classes": 1}, "data.facts.classes=1: must be a number of at least 2, or a list of names"),
        (FACTS | {"classes": [1, 2]}, "data.facts.classes=[1, 2]: must be a number of at least 2, or a list of names"),
        (FACTS | {"channels": "1"}, "data.facts.channels=1: must be a whole number of at least 1"),
        (FACTS | {"clases": 3}, "data.facts.clases=3: unknown setting; did you mean classes?"),
        (3, "data.facts=3: must be a group of settings, such as facts: {classes: 10, channels: 3, size: 32}"),
    ],
)
def test_wrong_facts_are_a_one_line_error(facts: Any, line: str) -> None:
    with pytest.raises(Refused) as refused:
        compose_run(["model=Net", with_facts("Bytes", facts)], "conf")
    assert str(refused.value) == line


# --- batches

PAIR = "a batch must be (images [N, C, H, W], labels int64 [N])"
WRONG = {
    "Dicts": f"Dicts.train_dataloader: {PAIR}; this is a dict with image, label",
    "Threes": f"Threes.train_dataloader: {PAIR}; this is a list of 3: uint8 [8, 1, 16, 16], int64 [8], int64 [8]",
    "ChannelsLast": f"ChannelsLast.train_dataloader: {PAIR}; its images are [8, 16, 16, 1], channels last; "
    "write images.permute(0, 3, 1, 2)",
    "Flat": f"Flat.train_dataloader: {PAIR}; its images are [8, 16, 16], without channels; write images[:, None]",
    "Lists": f"Lists.train_dataloader: {PAIR}; its images are [8, 256]",
    "Numbers": f"Numbers.train_dataloader: {PAIR}; its images are int64; use uint8 (0 to 255) or scaled floats",
    "OneHot": f"OneHot.train_dataloader: {PAIR}; its labels are int64 [8, 3], one-hot; write labels.argmax(1)",
    "Column": f"Column.train_dataloader: {PAIR}; its labels are int64 [8, 1]; write labels[:, 0]",
    "ShortLabels": f"ShortLabels.train_dataloader: {PAIR}; its labels are int32; write labels.long()",
    "FourClasses": f"FourClasses.train_dataloader: {PAIR}; a label is 3, outside 0 to 2 (3 classes in the settings)",
    "Negative": f"Negative.train_dataloader: {PAIR}; a label is -1, outside 0 to 2 (3 classes in the settings)",
    "Coloured": f"Coloured.train_dataloader: {PAIR}; its images are [8, 3, 16, 16], "
    "not of 1 channel as in the settings",
    "Large": "Large.val_dataloader: its images are 32x32, not 16x16 as in the settings; "
    "correct data.facts.size or model.input_size, or resize the images",
    "DictsInVal": f"DictsInVal.val_dataloader: {PAIR}; this is a dict with image, label",
    "ThreesInTest": f"ThreesInTest.test_dataloader: {PAIR}; "
    "this is a list of 3: uint8 [8, 1, 16, 16], int64 [8], int64 [8]",
    "FloatsInTest": "FloatsInTest.test_dataloader: its images are float32, those of train_dataloader uint8; "
    "use either uint8 or floats for all",
    "TwoValidations": "TwoValidations.val_dataloader: returns 2 loaders; return one",
    "Empty": "Empty.train_dataloader: has no batch; at least one is needed",
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_batch_is_a_one_line_error(name: str) -> None:
    data = getattr(importlib.import_module("lab"), name)()
    data.setup("fit")
    with pytest.raises(UserError) as refused:
        first_batches(data, ExpectedBatch(channels=1, size=16, classes=3, own=True), ("train", "val", "test"))
    assert str(refused.value) == WRONG[name]


def test_check_rejects_an_invalid_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("model=Net", with_facts("Dicts")) == 2
    assert capsys.readouterr().err.splitlines()[-1] == WRONG["Dicts"]


def test_user_network_may_train_on_other_sizes_than_it_is_tested_on() -> None:
    assert check("model=Net", with_facts("LargeInTraining")) == 0
    assert check("model=bn", "model.width=0.02", with_facts("LargeInTraining")) == 2


@pytest.mark.parametrize(("model", "gave"), [("Unpooled", "[8, 3, 14, 14]"), ("Few", "[8, 2]"), ("Tupled", "a tuple")])
def test_network_without_logits_is_a_one_line_error(model: str, gave: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(f"model={model}", with_facts("Bytes")) == 2
    line = f"{model}: returned {gave} for 8 images; return logits [N, 3]"
    assert capsys.readouterr().err.splitlines()[-1] == line


def prepared(*overrides: str) -> Any:
    experiment = build(compose_run([*SMALL, *overrides], "conf").config)
    prepare(experiment)
    return experiment


def test_log_has_the_number_of_images_of_each_loader(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="alexnet_exp")
    prepared("model=Net", with_facts("Bytes"))
    assert "24 train, 12 val, 9 test images of 3 classes; 16x16x1" in caplog.messages
    prepared("model=Net", with_facts("Stream"))
    assert "uncounted train, 12 val, 9 test images of 3 classes; 16x16x1" in caplog.messages


def test_batch_checks_do_not_change_the_random_state() -> None:
    experiment = build(compose_run([*SMALL, "model=Net", with_facts("Bytes")], "conf").config)
    before = torch.get_rng_state()
    prepare(experiment)
    assert torch.equal(torch.get_rng_state(), before)


# --- summary


def table_of(*words: str) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["summary", "--config-dir", "conf", *words, "--json"]) == 0
    return dict(json.loads(printed.getvalue()))


def test_summary_counts_a_user_network(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: a 3x3 convolution from 1 to 4 maps of 14x14, averaged, and 4 times 3 weights."""
    counted = table_of("model=Net", with_facts("Bytes"))
    assert counted["parameters"] == counted["trainable_parameters"] == (9 + 1) * 4 + (4 + 1) * 3
    assert counted["multiply_adds"] == 9 * 4 * 14 * 14 + 4 * 3
    rows = {row["name"]: row for row in counted["layers"]}
    assert (rows["body.0"]["shape"], rows["body.0"]["parameters"]) == ([4, 14, 14], 40)
    assert main(["summary", "--config-dir", "conf", "model=Net", with_facts("Bytes")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model=lab.Net, input 1x16x16, 3 classes"
    assert "body.4" in lines[7]


def test_summary_counts_parameters_of_a_network_that_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    option("model", "said", {"_target_": "lab.Net", "num_classes": 3, "in_channels": 1})
    counted = table_of("model=said", "data=Bytes")  # whose size nothing tells
    assert (counted["parameters"], counted["multiply_adds"]) == (55, None)
    assert main(["summary", "--config-dir", "conf", "model=Broken", with_facts("Bytes")]) == 0
    told = "Outputs and multiply-adds are unknown because the network could not be run: ValueError: no images today"
    assert capsys.readouterr().out.splitlines()[-1] == told


def test_summary_counts_a_network_that_computes_while_it_is_built() -> None:
    counted = table_of("model=Numeric", with_facts("Bytes"))
    assert (counted["parameters"], counted["multiply_adds"]) == (55 + 1, 9 * 4 * 14 * 14 + 4 * 3)
    assert counted["layers"][-1]["name"] == "(in no module)"


# --- floats


def test_floats_are_used_unchanged(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = run("model=Net", with_facts("Floats"))
    low, high = min(low for low, _ in net().seen), max(high for _, high in net().seen)
    assert low == 0
    assert high == pytest.approx(199 / 255, abs=0.01)
    log = (path / "train.log").read_text()
    assert "16x16x1; float32, 0 to 0.7" in log
    assert "in the first batch: used unchanged, the network's `input` (scale, mean, std) is not applied" in log
    classifier = load(path)
    assert classifier.dtype == torch.float32
    result = read_result(path)
    capsys.readouterr()
    assert main(["eval", str(path)]) == 0
    assert f'"test/top1": {result["metrics"]["test/top1"]}' in capsys.readouterr().out
    Image.new("L", (16, 16)).save(tmp_path / "image.png")
    assert main(["predict", str(path), str(tmp_path / "image.png")]) == 2
    assert "was trained on floats of lab.Floats" in capsys.readouterr().err


def net() -> Any:
    return sys.modules["lab"].Net


def test_eval_rejects_images_of_another_type_than_in_training(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run("model=Net", with_facts("Floats"))
    sys.modules["lab"].Floats.test = sys.modules["lab"].Bytes.test
    assert main(["eval", str(path)]) == 2
    told = f"{path}: was trained on float32 images, and Floats returns uint8 now; return float32\n"
    assert capsys.readouterr().err.endswith(told)


def test_shipped_network_does_not_measure_statistics_of_floats() -> None:
    experiment = prepared("model=bn", "model.width=0.02", with_facts("Floats"))
    assert experiment.module.preprocess.mean.unique().tolist() == [0]
    assert experiment.module.preprocess.std.unique().tolist() == [1]


def test_bytes_are_scaled_by_the_network(run: Callable[..., Path]) -> None:
    path = run("model=Net", with_facts("Bytes"))
    assert max(high for _, high in net().seen) == pytest.approx(199 / 255, abs=0.01)
    assert load(path).dtype == torch.uint8
    card = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["alexnet_exp"]
    assert card["images"] == {"dtype": "uint8", "shape": [1, 16, 16], "source": "lab.Bytes"}


def test_classifier_takes_the_image_type_of_training(run: Callable[..., Path], tmp_path: Path) -> None:
    path = run("model=Net", with_facts("Floats"))
    classifier = load(path)
    images = sys.modules["lab"].drawn(6)[0]
    with torch.no_grad():
        floats = classifier(images / 255)
    assert torch.equal(floats, classifier.network(images / 255))
    with pytest.raises(UserError, match=r"needs images float32 \[N, 1, 16, 16\]; got uint8 \[6, 1, 16, 16\]"):
        classifier(images)
    from safetensors import safe_open

    from alexnet_exp.inference.export import export_onnx, export_safetensors

    with safe_open(export_safetensors(classifier, tmp_path), "pt") as content:
        assert content.metadata()["images"] == "float32"
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    file, _ = export_onnx(classifier, tmp_path)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": (images / 255).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), floats, rtol=1e-3, atol=1e-4)


def test_predict_rejects_image_files_for_a_network_of_other_shapes(run: Callable[..., Path], tmp_path: Path) -> None:
    option("model", "said", {"_target_": "lab.Net", "num_classes": 3, "in_channels": 1})
    path = run("model=said", "data=Wide")
    Image.new("L", (32, 16)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match=r"needs images uint8 \[N, 1, 16, 32\], but image files are cropped to squares"):
        load(path).predict([tmp_path / "image.png"])
