"""The jobs of a sweep, as its folder holds them: written before the first one starts, read by whoever runs the rest.

    <sweep>/sweep.json                      the command and every job: number, folder, overrides, what varies
    <sweep>/<slug>-<hash>/.hydra/           each job's configuration, composed and resolved
    <sweep>/<slug>-<hash>/result.json ...   from its start on, the run folder of `runs/`

So a job is run by whoever has the folder; nothing is composed again, and the code that planned it may be gone.
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
from alexnet_exp.runs.metric import declared
from alexnet_exp.runs.reader import read_config

SWEEP_FORMAT = 1
SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Job:
    """One experiment of a sweep. `varies`: the settings in which the sweep's jobs differ, as they were typed."""

    number: int
    folder: Path
    overrides: tuple[str, ...]
    varies: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What varies, as one types it: `model=lrn optim.lr=0.1`."""
        return " ".join(f"{key}={value}" for key, value in self.varies.items())

    def container(self) -> dict[str, Any]:
        """Its resolved configuration. Raises UserError where the folder has none, or a link that leads out of it."""
        refuse_links_out(self.folder)
        return read_config(self.folder)


@dataclass
class SweepPlan:
    """A sweep's folder and its jobs. command: the arguments that were typed, in `cwd`, to be typed again.

    kind: `grid`, whose jobs are all known, or `search`, whose jobs come one by one. objective: the metric by which the
    jobs are ranked. direction: `maximize` or `minimize`, where the search was given one; None: as the objective's name
    says.
    """

    folder: Path
    command: list[str]
    cwd: str
    objective: str
    kind: str = "grid"
    jobs: list[Job] = field(default_factory=list)
    direction: str | None = None

    def objective_declared(self) -> AbstractContextManager[None]:
        """Within it, the objective has the direction that the search was given."""
        higher = None if self.direction is None else self.direction == "maximize"
        return declared(self.objective, higher_is_better=higher)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether `folder` is that of a sweep."""
        return (folder / SWEEP_FILE).is_file()

    @classmethod
    def read(cls, folder: Path) -> SweepPlan:
        """The plan in `folder`; raises UserError, naming the file, where there is none or it is damaged.

        Also where a link in the folder leads out of it.
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
            raise UserError(f"{file}: cannot be read ({error.strerror}); name the folder of a sweep") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: not the plan of a sweep ({error!r})") from None

    def write(self) -> None:
        """Replaces the file in one step."""
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
    """The name of a folder in the sweep's own: what another sends must not lead to runs outside of it."""
    if Path(text).name != text or text in ("", ".."):
        raise ValueError(f"{text} is no folder of the sweep")
    return text


def _texts(stored: list[str]) -> tuple[str, ...]:
    if not isinstance(stored, list) or not all(isinstance(text, str) for text in stored):
        raise TypeError(f"{stored!r} are no texts")
    return tuple(stored)
