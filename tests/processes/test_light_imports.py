"""Tests of what an import of Lightning imports, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a run of digits does not use, and other packages import.
HEAVY = ("torchvision", "scipy.signal", "scipy.stats", "matplotlib", "tensorboard", "sklearn")


def printed(script: str, *arguments: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_a_run_of_digits_imports_no_heavy_module(tmp_path: pytest.TempPathFactory) -> None:
    script = (
        "import os, sys; os.chdir(sys.argv[1])\n"
        "from alexnet_exp.__main__ import main\n"
        "sizes = ['data.subset=96', 'data.batch_size=32', 'model.width=0.05', 'trainer=cpu', 'trainer.max_epochs=1']\n"
        "out = sys.stdout; sys.stdout = sys.stderr; code = main(sizes); sys.stdout = out\n"
        f"print('ended', code, *[name for name in {HEAVY} if name in sys.modules])"
    )
    assert printed(script, str(tmp_path)) == ["ended", "0"]


def test_torchmetrics_is_complete_afterwards_with_the_classes_that_lightning_knows() -> None:
    script = """
import alexnet_exp.training, pytorch_lightning as pl, sys
from pytorch_lightning.trainer.connectors.logger_connector.result import Metric
assert "torchmetrics" not in sys.modules and "torchmetrics.utilities.plot" not in sys.modules
from torchmetrics.classification import MulticlassAccuracy
import torch, torchmetrics, torchmetrics.metric, torchmetrics.utilities.plot as plot
assert torchmetrics.Metric is Metric is torchmetrics.metric.Metric and issubclass(MulticlassAccuracy, Metric)
assert torchmetrics.classification.MulticlassAccuracy is MulticlassAccuracy
assert type(torchmetrics.__spec__.loader).__module__ != "alexnet_exp.processes.light_imports"
import matplotlib; matplotlib.use("Agg")
metric = MulticlassAccuracy(num_classes=3)
metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
figure, axes = metric.plot()  # by a function that Lightning's import has put off
print(type(figure).__name__, type(axes).__name__, callable(plot.plot_confusion_matrix))
"""
    assert printed(script) == ["Figure", "Axes", "True"]


@pytest.mark.slow
def test_an_unknown_layout_of_torchmetrics_is_imported_as_usual() -> None:
    script = """
import sys
from alexnet_exp.processes import light_imports
light_imports.PARTS = (*light_imports.PARTS, "torchmetrics.no_such_part")
light_imports.install()
import pytorch_lightning
import torchmetrics
print("matplotlib" in sys.modules, torchmetrics.Metric is pytorch_lightning.core.module.Metric)
"""
    assert printed(script) == ["True", "True"]


@pytest.mark.slow
def test_torchmetrics_that_is_imported_first_stays_as_it_is() -> None:
    script = """
import torchmetrics, alexnet_exp.training, pytorch_lightning, sys
print(sys.modules["torchmetrics"] is torchmetrics, pytorch_lightning.core.module.Metric is torchmetrics.Metric)
"""
    assert printed(script) == ["True", "True"]
