"""The files of a run folder's `.hydra/`, written as Hydra writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper


def hydra_files(hydra: Any, overrides: Sequence[str], container: Mapping[str, Any]) -> dict[str, str]:
    """Returns the text of each file by its name.

    config.yaml is last: a folder that has it has all three files. It contains no interpolation, since it is read later
    and elsewhere, without Hydra. hydra: the node `hydra` of the configuration.
    """
    node = OmegaConf.to_container(hydra, enum_to_str=True)
    assert isinstance(node, dict)
    node = {key: value for key, value in node.items() if key not in ("help", "hydra_help")}
    return {
        "hydra.yaml": to_yaml({"hydra": node}),
        "overrides.yaml": to_yaml(list(overrides)),
        "config.yaml": to_yaml(dict(container)),
    }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The dumper of PyYAML, compiled if available, with the quoting rules of OmegaConf."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def to_yaml(container: Any) -> str:
    """Returns plain containers as `OmegaConf.to_yaml` prints them, without making a DictConfig of them first."""
    return str(yaml.dump(container, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))
