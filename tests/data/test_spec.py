"""Settings of the data sources: rejected values, and their use as a schema."""

from __future__ import annotations

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from alexnet_exp.data.spec import DATA_SPECS, Cifar10, Data, Digits, Folder, ImageNet, Random, Val
from alexnet_exp.errors import Refused


@pytest.mark.parametrize(("name", "cls"), DATA_SPECS.items())
def test_specs_round_trip_through_omegaconf(name: str, cls: type[Data]) -> None:
    node = OmegaConf.structured(cls)
    node.val = "test"
    spec = OmegaConf.to_object(node)
    assert isinstance(spec, cls)
    assert (spec.name, spec.val, spec.has_val) == (name, Val.test, True)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(Refused) as refused:
        Digits(batch_size=0, val_fraction=1.0, crop=0, pad=-1, workers=-1, subset=0, size=7)
    keys = [problem.key for problem in refused.value.problems]
    assert keys == ["batch_size", "val_fraction", "crop", "pad", "workers", "subset", "size"]


@pytest.mark.parametrize(
    ("cls", "setting", "said"),
    [
        (Digits, {"name": "cifar10"}, "name=cifar10: must be digits"),
        (Cifar10, {"url": "file:///tmp/cifar"}, "put an existing file into data.root"),
        (Cifar10, {"md5": "c58f"}, "md5=c58f: must be 32 hexadecimal digits"),
        (Folder, {"size": 0}, "size=0: must be at least 1"),
        (ImageNet, {"size": 0}, "size=0: must be at least 1"),
        (Random, {"channels": 2}, "channels=2: must be 1 (grey) or 3 (colour)"),
        (Random, {"classes": 1}, "classes=1: must be at least 2"),
        (Random, {"n": 7}, "n=7: must be at least 8"),
    ],
)
def test_invalid_setting_reports_what_to_write(cls: type[Data], setting: dict[str, object], said: str) -> None:
    with pytest.raises(Refused) as refused:
        cls(**setting)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_has_val_needs_no_data() -> None:
    assert not Digits(val=Val.none).has_val


def test_spec_and_info_do_not_import_torch() -> None:
    code = "import sys, alexnet_exp.data.spec, alexnet_exp.data.info; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
