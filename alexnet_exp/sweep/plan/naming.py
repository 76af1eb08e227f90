"""Names the folders of a sweep and of its jobs: the settings that vary, and a hash.

The settings are for people (`model-lrn_lr-0.1_seed-1`); the hash identifies the configuration or the command. Neither
contains a time, so that the same command finds the same folder and its finished jobs. Imports no torch and no Hydra.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_SETTINGS_LENGTH = 80  # characters of a name, without the hash
HASH_DIGITS = 8
# Settings that control how a sweep is executed: they have no effect on the name of its folder.
_EXECUTION_SETTINGS = (
    *("hydra/launcher", "hydra.launcher", "hydra.verbose", "hydra.mode", "hydra.sweep.dir", "hydra.job.env_set"),
    *("hydra/hydra_logging", "hydra.hydra_logging", "hydra/job_logging", "hydra.job_logging"),
    *("hydra/callbacks", "hydra.callbacks", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"),
    "hydra.sweeper.max_batch_size",
)


def job_hash(container: Mapping[str, Any]) -> str:
    """Returns the hash of a job's resolved configuration; the order of its keys has no effect."""
    return _digest(json.dumps(container, sort_keys=True, separators=(",", ":"), default=str))


def job_name(varies: Mapping[str, str], container: Mapping[str, Any]) -> str:
    """Returns the folder name of a job: the settings that vary, and the hash of its configuration."""
    return _joined(slug(varies), job_hash(container))


def sweep_name(swept: Mapping[str, str], overrides: Sequence[str], config_dir: str | None) -> str:
    """Returns the folder name of a sweep: the swept settings, and a hash of the command without execution settings."""
    relevant = [override for override in overrides if not is_execution_setting(override)]
    return _joined(slug(swept), _digest(json.dumps([relevant, config_dir])))


def sort_overrides(overrides: Sequence[str]) -> list[str] | None:
    """Returns the overrides of a sweep without execution settings, sorted; None if their order has an effect.

    It has one if two of them set the same key, or one sets a part of what another sets.
    """
    relevant = sorted(override for override in overrides if not is_execution_setting(override))
    keys = [override.lstrip("+~").partition("=")[0] for override in relevant]
    for key in keys:
        if keys.count(key) > 1 or any(other.startswith(f"{key}.") and _is_node(key, relevant) for other in keys):
            return None
    return relevant


def _is_node(key: str, overrides: Sequence[str]) -> bool:
    """Whether `key` is set to a mapping or deleted. Hydra applies options of groups before all other overrides."""
    return any(each.lstrip("+").startswith((f"{key}={{", f"~{key}")) for each in overrides)


def is_execution_setting(override: str) -> bool:
    """Whether an override only controls how a sweep is executed: where, how many jobs at once, how much is printed."""
    key = override.lstrip("+~").partition("=")[0]
    return any(key == setting or key.startswith(f"{setting}.") for setting in _EXECUTION_SETTINGS)


def hash_of(name: str) -> str:
    """Returns the hash at the end of a folder's name."""
    return name.rpartition("-")[2]


def slug(settings: Mapping[str, str]) -> str:
    """Returns settings as part of a folder name, `model-lrn_lr-0.1`: last part of each key, no special characters."""
    parts = (f"{_last_part(key)}-{_safe(value)}" for key, value in settings.items())
    return "_".join(part.strip("-") for part in parts)


def differing(jobs: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the keys whose values differ between jobs, in the order of the overrides; of a single job, all keys."""
    keys = dict.fromkeys(key for job in jobs for key in job)
    found = [key for key in keys if len({job.get(key) for job in jobs}) > 1]
    return found or (list(keys) if len(jobs) == 1 else [])


def settings_of(overrides: Iterable[str]) -> dict[str, str]:
    """Returns overrides as a mapping from keys, without Hydra's `+` and `~`, to the texts of their values."""
    pairs = (override.partition("=") for override in overrides)
    return {key.lstrip("+~"): value if equals else "null" for key, equals, value in pairs}


def _last_part(key: str) -> str:
    return _safe(re.split(r"[./@]", key.lstrip("+~"))[-1])


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")


def _joined(settings: str, digest: str) -> str:
    if len(settings) > MAX_SETTINGS_LENGTH:
        settings = settings[:MAX_SETTINGS_LENGTH].rstrip("-_.")
    return f"{settings}-{digest}" if settings else digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
