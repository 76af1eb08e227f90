"""Composes many configurations like Hydra, but reads the YAML files once."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alexnet_exp.errors import NO_VALUE, Problem, Refused
from alexnet_exp.paths import groups


class Composer:
    """Composes many configurations; Hydra reads and merges the files once for each choice of options.

    Hydra applies values (`optim.lr=0.1`) last, to the merged files. So the merged files are cached, and copied for each
    configuration that differs only in values. Hydra itself composes the first configuration of each choice, those with
    other overrides (`+key`, `~key`, Hydra's own settings), and those whose values cannot be applied.

    whole: composes overrides with Hydra. groups: their names. The files must not change meanwhile.
    """

    def __init__(self, whole: Callable[[Sequence[str]], DictConfig], groups: Iterable[str]):
        self._whole, self._groups = whole, frozenset(groups)
        self._of_files: dict[tuple[str, ...], DictConfig | None] = {}  # None: the choice was used once

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Returns the configuration that `whole` would return; raises what `whole` raises."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        try:
            parsed = list(map(parse_override, overrides))
            if all(map(_is_option_or_value, parsed)) and (files := self._files(parsed)) is not None:
                return self._with_values(files, parsed)
        except (Refused, HydraException, OmegaConfBaseException, ValueError):
            pass
        return self._whole(overrides)

    def _files(self, parsed: Sequence[Any]) -> DictConfig | None:
        """Returns the merged files for these options; None for a new choice, which may never be used again."""
        chosen = tuple(each.input_line for each in parsed if each.key_or_group in self._groups)
        if chosen not in self._of_files:
            return self._of_files.setdefault(chosen, None)
        files = self._of_files[chosen]
        if files is None:
            files = self._of_files[chosen] = self._whole(chosen)
        return files

    def _with_values(self, files: DictConfig, parsed: Sequence[Any]) -> DictConfig:
        """Applies values and records the overrides in Hydra's node, like the last steps of Hydra's ConfigLoaderImpl."""
        from hydra._internal.config_loader_impl import get_overrides_dirname

        config = copy.deepcopy(files)
        for each in parsed:
            if each.key_or_group not in self._groups:
                OmegaConf.update(config, each.key_or_group, each.value(), merge=True)
        if "hydra" in config:
            config.hydra.overrides.task = [each.input_line for each in parsed]
            how = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(list(parsed), **how)
        return config


def _is_option_or_value(parsed: Any) -> bool:
    """Returns whether an override is `group=option` or `key=value` with one value, and not a setting of Hydra's."""
    from hydra.core.override_parser.types import OverrideType

    key = parsed.key_or_group
    if parsed.type is not OverrideType.CHANGE or parsed.package is not None or parsed.is_sweep_override():
        return False
    return "/" not in key and key.partition(".")[0] != "hydra" and not isinstance(parsed.value(), dict)


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Returns a composed configuration as plain containers, interpolations resolved.

    Enums become strings: an enum in a checkpoint would break `weights_only` loading.
    """
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


class GroupOptions:
    """Lists the options of a group for `glob(*)` like Hydra's loader: the files in the group's own folder."""

    def __init__(self, config_dir: str | None):
        self.config_dir = config_dir

    def get_group_options(self, group_name: str, results_filter: Any = None) -> list[str]:
        """Returns the options of a group, under the name that Hydra's loader uses."""
        group, _, inner = group_name.partition("/")
        below = f"{inner}/" if inner else ""
        names = [name for name in groups(self.config_dir).get(group, ()) if name.startswith(below)]
        return [name.removeprefix(below) for name in names if "/" not in name.removeprefix(below)]


def parse_override(text: str, loader: Any = None) -> Any:
    """Returns Hydra's parse of one override. Raises Refused if it cannot be parsed.

    loader: Hydra's, or `GroupOptions`, which a `glob` asks for a group's options.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed: Any = OverridesParser.create().parse_override(text)
    except HydraException:
        parsed = None
    if parsed is None or not parsed.key_or_group:
        key, _, value = text.partition("=")
        example = f": {shell_text(key, value)}" if key and value else ""
        instead = f"cannot be read; write key=value, and quote a value with special characters{example}"
        raise Refused([Problem(text, NO_VALUE, instead)])
    parsed.config_loader = loader or GroupOptions(None)
    return parsed


def quote_value(text: str) -> str:
    """Returns a text quoted as the value of an override."""
    # Hydra keeps backslashes, except for those before a quote
    inner = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{inner}'"


def unquote_value(value: str) -> str:
    """Returns the argument of `quoted`; any other value unchanged."""
    inner = re.sub(r"\\(['\\])", r"\1", value[1:-1])
    return inner if len(value) > 1 and quote_value(inner) == value else value


def shell_text(key: str, value: str) -> str:
    """Returns an override with a text value as it is typed in a shell."""
    inner = f'"{value}"' if not set(value) & set('"\\') else quote_value(value)
    return shlex.quote(f"{key}={inner}")
