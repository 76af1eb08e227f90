"""Recognizes bookkeeping columns of other projects: ids, times, paths and notes, which do not form arms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_exp.runs.csv_file import numbers
from alexnet_exp.runs.metric import is_time

# Columns that are bookkeeping whatever their values: ids, times, paths, notes. In the form of `plain`.
_BOOKKEEPING_NAMES = frozenset(
    (
        *("step", "steps_done", "global_step", "trainer_global_step", "epoch", "current_epoch", "best_epoch", "row"),
        *("training_iteration", "iterations_since_restore", "line", "timestamp", "runtime", "duration", "elapsed"),
        *("created", "created_at", "updated", "updated_at", "start", "end", "started", "finished", "start_time"),
        *("end_time", "datetime_start", "datetime_complete", "date", "datetime", "time", "wall_time", "walltime"),
        *("relative_time_process", "relative_time_wall", "seconds", "secs", "minutes", "hours", "total_time"),
        *("train_time", "training_time", "epoch_time", "time_s", "time_this_iter_s", "time_total_s"),
        *("time_since_restore", "images_s", "images_per_s", "samples_s", "samples_per_s", "it_s", "its_s"),
        *("steps_per_second", "samples_per_second", "throughput", "fps", "id", "run_id", "runid", "uuid", "trial_id"),
        *("session_id", "experiment_id", "job_id", "artifact_uri", "lifecycle_stage", "source_name", "source_type"),
        *("user", "username", "user_name", "author", "owner", "host", "hostname", "node_ip", "pid", "notes", "note"),
        *("comment", "comments", "description", "tags", "url", "link", "run_url", "run_path", "save_name"),
        *("save_path", "log_dir", "logdir", "output_dir", "ckpt_path", "checkpoint_path", "folder", "sweep"),
        *("sweep_id", "sweep_name", "commit", "git_commit", "git_hash", "git_sha", "dirty", "index", "job_type"),
        *("gpu_name", "gpu_type", "device", "device_name"),
    )
)
# A column that ends in one of these words is bookkeeping if its value differs in every row.
_IDS = frozenset(
    (
        *("id", "uuid", "guid", "hash", "sha", "commit", "index", "idx", "counter", "number", "no", "nr", "trial"),
        *("path", "dir", "file", "filename", "url", "link", "date", "created", "started", "finished", "timestamp"),
    )
)
NAME_COLUMNS = re.compile(r"(save|run|exp|experiment|job|display|log|wandb|folder|version)_?name")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T _]\d\d[:\-.]\d\d.*)?|\d{1,2}:\d\d(:\d\d(\.\d+)?)?|\d{8}[-_]?\d{4,6}")
_HEX = re.compile(r"(?=.*\d)([0-9a-f]{12,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)
# With one of these words, a name such as max_time is a setting and not a measured time.
SETTING_WORDS = frozenset(
    ("max", "min", "limit", "budget", "horizon", "warmup", "window", "steps", "embedding", "num", "n")
)


def bookkeeping(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the settings that differ in every run and whose name is that of an id, a time or a counter."""
    return [
        key
        for key, had in columns.items()
        if len(had) > 1
        and len(set(map(str, had))) == len(had)
        and (
            plain(key.rpartition(".")[2]) in _BOOKKEEPING_NAMES
            or is_id(key.rpartition(".")[2], [str(one) for one in had])
        )
    ]


def is_fact(column: str) -> bool:
    """Returns whether a column's name alone marks it as bookkeeping."""
    words = plain(column)
    return (
        words in _BOOKKEEPING_NAMES
        or words == "wandb"
        or words.startswith("wandb_")
        or column.startswith(("tags.", "sys/"))
    )


def is_id(column: str, had: Sequence[str]) -> bool:
    """Returns whether a column that differs in every row is an id, a time or a counter."""
    words = plain(column).split("_")
    is_numeric = numbers(had) is not None
    if is_time(column) and is_numeric and not SETTING_WORDS & set(words):
        return True
    if words[-1] in _IDS:
        return True
    return all(_MOMENT.fullmatch(one) or _HEX.fullmatch(one) for one in had)


def plain(column: str) -> str:
    """Returns the name in lower case with `_` for each group of other characters: `images/s` becomes `images_s`."""
    return re.sub(r"[\W_]+", "_", column.removeprefix("tags.").lower()).strip("_")
