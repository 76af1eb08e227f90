"""Provides the MLflow runs of run folders and sweeps, without torch and Lightning: a sweep's is the jobs' parent.

Jobs of one sweep start at once, in independent processes: the database, the experiment and the parent run are created
under a file lock, and `mlflow.json` in the sweep's folder names the parent run.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_exp.atomic import atomic_write
from alexnet_exp.config.schema import Config, Mlflow
from alexnet_exp.errors import UserError
from alexnet_exp.runs.lookup import outputs_of
from alexnet_exp.runs.reader import is_run, read_result
from alexnet_exp.runs.sweep_plan import SweepPlan
from alexnet_exp.training.loggers.naming import experiment_of, sweep_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MLFLOW_NOTE_FILE = "mlflow.json"  # in the folder of a run or a sweep: the id of its MLflow run
LOCK_FILE = ".mlflow.lock"
TRACKING_URI_VARIABLE = "MLFLOW_TRACKING_URI"
PARENT_TAG = "mlflow.parentRunId"
# A pruned run is not FINISHED: a mean over finished runs must not include half-trained networks.
MLFLOW_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}
MOST_TAG_CHARACTERS = 5000  # every version of MLflow accepts them
# For a server that does not answer. MLflow's own values, 120 s and 7 retries, make a quarter of an hour per call.
TIMEOUT_VARIABLES = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

log = logging.getLogger(__name__)


def begin(settings: Mlflow, config: Config, run: Path) -> tuple[str, str]:
    """Opens the MLflow run of the folder `run`, with database, experiment and parent; returns its URI and id.

    A resumed run continues the MLflow run that its folder has. That of an earlier attempt, which was set aside, is
    closed and deleted in MLflow's sense: hidden, and `mlflow runs restore` restores it. So a job that ran twice is one
    child.
    """
    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # it logs every table of a new database
    run = run.resolve()
    sweep = sweep_of(run)
    home = outputs_of(run) or sweep or run
    given = tracking_uri(settings)
    uri = given or f"sqlite:///{home / 'mlflow.db'}"
    lock = _lock_of(uri, run)
    if not is_server(uri):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with _waiting(lock):
        client = _client(uri)
        location = None if given else (home / "mlartifacts").as_uri()
        named = settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment_of(run, config.name)
        experiment = _experiment(client, named, location)
        tags = {"run": str(run), "seed": str(config.seed), "note": config.note[:MOST_TAG_CHARACTERS]}
        tags |= {f"tag.{tag}": "true" for tag in config.tags}
        if config.note:
            tags["mlflow.note.content"] = config.note[:MOST_TAG_CHARACTERS]  # MLflow shows it as the description
        if sweep is not None:
            parent = _parent(client, experiment, sweep)
            experiment, tags[PARENT_TAG] = parent.info.experiment_id, parent.info.run_id
        _supersede(client, run)
        noted = _read_note(run)
        found = _run(client, noted["run_id"]) if noted else None
        found = _create(client, experiment, run, tags) if found is None else _reopened(client, found)
    return uri, found.info.run_id


def end(client: MlflowClient, run_id: str, status: str) -> None:
    """Closes an MLflow run, and that of its sweep if the sweep is over."""
    folder = Path(client.get_run(run_id).data.tags["run"])
    with _waiting(_lock_of(client.tracking_uri, folder)):
        client.set_terminated(run_id, MLFLOW_STATUS[status])
        parent = client.get_run(run_id).data.tags.get(PARENT_TAG)
        if parent is not None:
            _close_if_over(client, client.get_run(parent))


def close_sweep(sweep: Path) -> None:
    """Closes the MLflow run of a sweep, and those of jobs that could not do so themselves, such as killed ones.

    Called when the last job of a sweep has ended. Does nothing, and imports nothing, where the sweep is not in MLflow.
    """
    noted = _read_note(sweep)
    if noted is None:
        return
    try:
        with _waiting(_lock_of(noted["uri"], sweep / "any")):
            client = _client(noted["uri"])
            parent = _run(client, noted["run_id"])
            if parent is not None:
                _close_if_over(client, parent)
    except Exception as error:  # the sweep itself has succeeded
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        log.warning(
            f"logger=mlflow: final status of the sweep was not sent: {reason}; result.json of each job has its status"
        )


def tracking_uri(settings: Mlflow) -> str | None:
    """Returns the URI from the setting or MLflow's own variable; None for the SQLite file beside the runs."""
    return settings.uri or os.environ.get(TRACKING_URI_VARIABLE) or None


def is_server(uri: str | None) -> bool:
    """Returns whether the URI is a server's, and not a path or a SQLite file."""
    return uri is not None and not uri.startswith(("sqlite:", "file:")) and ("://" in uri or uri == "databricks")


def _client(uri: str) -> MlflowClient:
    """Returns a client with short timeouts, unless the user's environment sets them."""
    from mlflow import MlflowClient

    if is_server(uri):
        for name, value in TIMEOUT_VARIABLES.items():
            os.environ.setdefault(name, value)
    return MlflowClient(uri)


def _close_if_over(client: MlflowClient, parent: Run) -> None:
    """Closes the parent run where no job is running or pending, with the worst status of the jobs."""
    query = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
    children = client.search_runs([parent.info.experiment_id], query, max_results=50000)
    sweep = Path(parent.data.tags["run"])
    ended: list[str | None] = []
    for child in children:
        status, folder = child.data.tags.get("status"), Path(child.data.tags["run"])
        if status is None:
            status = _ended(folder)
            if status is None:
                return
            client.set_tag(child.info.run_id, "status", status)
            client.set_terminated(child.info.run_id, MLFLOW_STATUS[status])
        ended.append(status)
    known = {Path(child.data.tags["run"]).name for child in children}
    for job in SweepPlan.read(sweep).jobs:
        if job.folder.name not in known:  # not started, or rejected before MLflow was used
            ended.append(_ended(job.folder))
    if "interrupted" in ended:
        client.set_terminated(parent.info.run_id, "KILLED")
    elif None not in ended:
        client.set_terminated(parent.info.run_id, "FAILED" if "failed" in ended else "FINISHED")


def _ended(folder: Path) -> str | None:
    status = str(read_result(folder)["status"]) if is_run(folder) else None
    return status if status in MLFLOW_STATUS else None


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, location))
        except MlflowException:  # on a server, another process may have created it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        advice = "restore it, or write another: logger.mlflow.experiment=NAME"
        raise UserError(f"logger=mlflow: the experiment {name} is deleted in MLflow; {advice}")
    return str(found.experiment_id)


def _parent(client: MlflowClient, experiment: str, sweep: Path) -> Run:
    noted = _read_note(sweep)
    found = _run(client, noted["run_id"]) if noted else None
    if found is None:
        return _create(client, experiment, sweep, {"run": str(sweep), "kind": "sweep"})
    return _reopened(client, found)  # it may be closed: a job runs again, or one more trial starts


def _reopened(client: MlflowClient, run: Run) -> Run:
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    for tag in {"status", "error"} & run.data.tags.keys():  # of its former end
        client.delete_tag(run.info.run_id, tag)
    return run


def _create(client: MlflowClient, experiment: str, folder: Path, tags: Mapping[str, str]) -> Run:
    from mlflow.tracking.context.registry import resolve_tags

    made = client.create_run(experiment, tags=resolve_tags(dict(tags)), run_name=folder.name)
    with atomic_write(folder / MLFLOW_NOTE_FILE) as file:
        file.write((json.dumps({"uri": client.tracking_uri, "run_id": made.info.run_id}) + "\n").encode())
    return made


def _supersede(client: MlflowClient, run: Path) -> None:
    for folder in run.glob("earlier/*"):
        noted = _read_note(folder)
        earlier = _run(client, noted["run_id"]) if noted else None
        if earlier is not None:
            client.set_tag(earlier.info.run_id, "superseded", "the run was started again in its folder")
            if earlier.info.status == "RUNNING":
                client.set_terminated(earlier.info.run_id, "KILLED")
            client.delete_run(earlier.info.run_id)


def _run(client: MlflowClient, run_id: str) -> Run | None:
    """Returns the MLflow run; None where it is deleted, or in another database."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def _read_note(folder: Path) -> dict[str, str] | None:
    try:
        noted = json.loads((folder / MLFLOW_NOTE_FILE).read_text(encoding="utf-8"))
        return {"uri": str(noted["uri"]), "run_id": str(noted["run_id"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an unreadable note is ignored


def _lock_of(uri: str, run: Path) -> Path:
    """Returns the lock file: beside a SQLite file; for a server, in the sweep's folder, whose jobs share the parent."""
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve().with_name(LOCK_FILE)
    return (sweep_of(run) or run) / LOCK_FILE


@contextmanager
def _waiting(lock: Path) -> Iterator[None]:
    """Waits for the lock without a time limit, and holds it."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except (
        FileNotFoundError
    ):  # the run folder no longer exists: no other process can use it, and it must not be created again
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
