"""Provides the plan of a sweep: the file with its jobs, written before the first one starts.

    <sweep>/sweep.json                      the command and every job: number, folder, overrides, what varies
    <sweep>/<slug>-<hash>/.hydra/           each job's configuration, composed and resolved
    <sweep>/<slug>-<hash>/result.json ...   from its start on, the run folder of `runs/`

Any process with the folder can run a job: nothing is composed again, and the code that planned it is not needed.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError
from alexnet_exp.runs.links import refuse_links_out
from alexnet_exp.runs.metric import declare
from alexnet_exp.runs.reader import read_config

SWEEP_FORMAT = 1
SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Job:
    """One run of a sweep. `varies`: the settings in which the jobs of the sweep differ, as they were typed."""

    number: int
    folder: Path
    overrides: tuple[str, ...]
    varies: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The settings that vary, as overrides: `model=lrn optim.lr=0.1`."""
        return " ".join(f"{key}={value}" for key, value in self.varies.items())

    def container(self) -> dict[str, Any]:
        """Returns its resolved configuration.

        Raises UserError if the folder has none, or has a symlink that points outside.
        """
        refuse_links_out(self.folder)
        return read_config(self.folder)


@dataclass
class SweepPlan:
    """The folder of a sweep and its jobs. command: the arguments of the command, which was run in `cwd`.

    kind: `grid`, whose jobs are all known, or `search`, which adds jobs one by one. objective: the metric that ranks
    the jobs. direction: `maximize` or `minimize` if the search sets it; None: by the name of the objective.
    """

    folder: Path
    command: list[str]
    cwd: str
    objective: str
    kind: str = "grid"
    jobs: list[Job] = field(default_factory=list)
    direction: str | None = None

    def objective_declared(self) -> AbstractContextManager[None]:
        """Returns a context in which the objective has the direction of the search."""
        higher = None if self.direction is None else self.direction == "maximize"
        return declare(self.objective, higher_is_better=higher)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Returns whether `folder` contains a sweep."""
        return (folder / SWEEP_FILE).is_file()

    @classmethod
    def read(cls, folder: Path) -> SweepPlan:
        """Returns the plan in `folder`. Raises UserError with the file if it is missing or damaged.

        Raises UserError also if the folder has a symlink that points outside.
        """
        file = folder / SWEEP_FILE
        refuse_links_out(folder)
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            if stored["format"] != SWEEP_FORMAT:
                raise UserError(f"{file}: format {stored['format']}, but this version reads format {SWEEP_FORMAT}")
            jobs = [
                Job(
                    int(job["number"]),
                    folder / _job_folder_name(job["folder"]),
                    _texts(job["overrides"]),
                    dict(job["varies"]),
                )
                for job in stored["jobs"]
            ]
            cwd, objective, kind = _texts([stored["cwd"], stored["objective"], stored["kind"]])
            direction = stored.get("direction")
            return cls(folder, list(_texts(stored["command"])), cwd, objective, kind, jobs, direction)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); give the folder of a sweep") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: not the plan of a sweep ({error!r})") from None

    def write(self) -> None:
        """Replaces the file atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            {
                "number": job.number,
                "folder": os.path.relpath(job.folder, self.folder),
                "overrides": list(job.overrides),
                "varies": job.varies,
            }
            for job in self.jobs
        ]
        stored = {
            "format": SWEEP_FORMAT,
            "kind": self.kind,
            "command": self.command,
            "cwd": self.cwd,
            "objective": self.objective,
            **({"direction": self.direction} if self.direction else {}),
            "jobs": jobs,
        }
        with atomic_write(self.folder / SWEEP_FILE) as file:
            file.write((json.dumps(stored, indent=1) + "\n").encode())


def _job_folder_name(text: str) -> str:
    """Returns `text` if it is the name of a folder; a sweep from elsewhere must not refer to runs outside of it."""
    if Path(text).name != text or text in ("", ".."):
        raise ValueError(f"{text} is not a folder of the sweep")
    return text


def _texts(stored: list[str]) -> tuple[str, ...]:
    if not isinstance(stored, list) or not all(isinstance(text, str) for text in stored):
        raise TypeError(f"{stored!r} is not a list of strings")
    return tuple(stored)
