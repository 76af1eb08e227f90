"""How the folders of a sweep are called: from what was typed, and a hash that tells equal names apart.

A name says what a person looks for (`model-lrn_lr-0.1_seed-1`); the hash says whether it is the same thing. Neither has
a time in it, so that the same command comes back to the same folder and finds what is done. No torch and no Hydra here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 80
DIGITS = 8
# Overrides that say how a sweep is run and not what it is: with others the same folder goes on.
_HOW = (
    *("hydra/launcher", "hydra.launcher", "hydra.verbose", "hydra.mode", "hydra.sweep.dir", "hydra.job.env_set"),
    *("hydra/hydra_logging", "hydra.hydra_logging", "hydra/job_logging", "hydra.job_logging"),
    *("hydra/callbacks", "hydra.callbacks", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"),
    "hydra.sweeper.max_batch_size",
)


def job_hash(container: Mapping[str, Any]) -> str:
    """Of a job's resolved configuration; the order of its keys does not matter."""
    return _digest(json.dumps(container, sort_keys=True, separators=(",", ":"), default=str))


def job_name(varies: Mapping[str, str], container: Mapping[str, Any]) -> str:
    """The folder of a job: what varies, and the hash of its configuration."""
    return _joined(slug(varies), job_hash(container))


def sweep_name(swept: Mapping[str, str], overrides: Sequence[str], config_dir: str | None) -> str:
    """The folder of a sweep: what is swept, and a hash of the command, without what only says how it is run."""
    what = [override for override in overrides if not says_how(override)]
    return _joined(slug(swept), _digest(json.dumps([what, config_dir])))


def in_any_order(overrides: Sequence[str]) -> list[str] | None:
    """What a sweep is, whatever the order in which its overrides were typed; None where the order has a meaning.

    It has one where two of them set the same thing, or one sets a part of what another sets.
    """
    what = sorted(override for override in overrides if not says_how(override))
    keys = [override.lstrip("+~").partition("=")[0] for override in what]
    for key in keys:
        if keys.count(key) > 1 or any(other.startswith(f"{key}.") and _is_node(key, what) for other in keys):
            return None
    return what


def _is_node(key: str, overrides: Sequence[str]) -> bool:
    """Whether `key` is set to a mapping or taken away; an option of a group is chosen before anything is set in it."""
    return any(each.lstrip("+").startswith((f"{key}={{", f"~{key}")) for each in overrides)


def says_how(override: str) -> bool:
    """Whether an override says only how a sweep is run: where, how many at once, how much is printed."""
    key = override.lstrip("+~").partition("=")[0]
    return any(key == how or key.startswith(f"{how}.") for how in _HOW)


def hash_of(name: str) -> str:
    """The hash at the end of a folder's name."""
    return name.rpartition("-")[2]


def slug(settings: Mapping[str, str]) -> str:
    """Settings as a name for a folder: `model-lrn_lr-0.1`; a key's last part, and letters that no shell minds."""
    words = (f"{_last(key)}-{_plain(value)}" for key, value in settings.items())
    return "_".join(word.strip("-") for word in words)


def differing(jobs: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose values differ between jobs, in the order typed; where there is but one job, all keys."""
    keys = dict.fromkeys(key for job in jobs for key in job)
    found = [key for key in keys if len({job.get(key) for job in jobs}) > 1]
    return found or (list(keys) if len(jobs) == 1 else [])


def settings_of(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides as a mapping from what is set, without Hydra's `+` and `~`, to the text it is set to."""
    pairs = (override.partition("=") for override in overrides)
    return {key.lstrip("+~"): value if equals else "null" for key, equals, value in pairs}


def _last(key: str) -> str:
    return _plain(re.split(r"[./@]", key.lstrip("+~"))[-1])


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")


def _joined(words: str, digest: str) -> str:
    if len(words) > LONGEST:
        words = words[:LONGEST].rstrip("-_.")
    return f"{words}-{digest}" if words else digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
