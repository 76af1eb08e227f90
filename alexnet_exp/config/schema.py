"""Provides the schema of the configuration: root, trainer, loggers and callbacks. Does not import torch.

Each dataclass is schema, default and documentation. The settings of the network, the data and the optimizer are in
their packages (`model/spec.py`, `data/spec.py`, `optim/optimizer_spec.py`, `optim/schedule_spec.py`). A group whose
options are different dataclasses carries `name`, which chooses one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from alexnet_exp.config.paper_claim import paper_claims
from alexnet_exp.data.spec import DATA_SPECS as DATA
from alexnet_exp.errors import Checks, Refused
from alexnet_exp.model.spec import Network
from alexnet_exp.optim.optimizer_spec import OPTIMIZERS
from alexnet_exp.optim.schedule_spec import SCHEDULES
from alexnet_exp.runs.metric import higher_is_better

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
# Lightning's older names, and their current ones.
OLD_PRECISIONS = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "64": "64-true"}
COLUMNS = "columns"  # our own strategy: a rank holds one column of the network and processes all images
# Strategies that need no other package or setting. Lightning has more, for clusters and very large networks.
STRATEGIES = ("auto", "ddp", COLUMNS, "ddp_find_unused_parameters_true", "fsdp")
# The metrics of an epoch of our LightningModule, and those of `callbacks=precise_bn`.
METRICS = ("train/loss", "train/top1", "val/loss", "val/top1", "val/top5")
PRECISE_METRICS = ("val/loss_precise_bn", "val/top1_precise_bn")
TRAIN_EVAL = (
    "train/top1_eval"  # the metrics of `callbacks=train_error`: of an epoch, and of a run that reaches its target
)
EPOCHS_TO_TARGET = "train/epochs_to_target"
VIEWS = (1, 2, 9, 10)  # crops of a test image
LIMITS = (*(f"limit_{split}_batches" for split in ("train", "val", "test", "predict")), "overfit_batches")
# Modes of torch.compile; `true` is the first. The others record CUDA graphs on a GPU.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
DURATION = r"\d+:\d{1,2}:\d{1,2}:\d{1,2}"  # days:hours:minutes:seconds


def seconds_of(duration: str) -> int:
    """Returns the seconds of a `DURATION`."""
    days, hours, minutes, seconds = map(int, duration.split(":"))
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


class Which(Enum):
    """The checkpoint of a test: the best by `val/top1`, or that of the last epoch."""

    best = "best"
    last = "last"


class Keep(Enum):
    """The checkpoints that remain when a run is done."""

    all = "all"
    best = "best"
    none = "none"


@dataclass
class Loss:
    """Cross entropy."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.below("label_smoothing", 0, 1)
        checks.done()


class Unit(Enum):
    """The unit of the interval between two checkpoints."""

    steps = "steps"
    seconds = "seconds"
    epochs = "epochs"


@dataclass(frozen=True)
class Interval:
    """The interval between two checkpoints in optimizer steps, seconds, or epochs."""

    count: int
    unit: Unit

    @classmethod
    def read(cls, text: str) -> Interval | None:
        """Returns the interval of `500 steps`, `10 minutes`, `1 epoch`; None for another text."""
        found = re.fullmatch(r"([1-9]\d{0,8}) +(step|second|minute|hour|epoch)s?", str(text).strip())
        if found is None:
            return None
        count, word = int(found[1]), found[2]
        in_seconds = {"second": 1, "minute": 60, "hour": 3600}
        return cls(count * in_seconds[word], Unit.seconds) if word in in_seconds else cls(count, Unit(f"{word}s"))


@dataclass
class Checkpoint:
    """When checkpoints are saved, and which remain.

    every: the interval, such as `500 steps`, `10 minutes` (also seconds, hours), `1 epoch`; a killed run loses at most
        that much. Steps and times also save within an epoch. The end of an epoch and a signal to stop always save;
        only `N epochs` skips ends of epochs without a new best metric.
    keep: the checkpoints that remain in `checkpoints/` when the run is done (with Adam, 12 bytes per parameter each).
    """

    every: str = "10 minutes"
    keep: Keep = Keep.all

    def __post_init__(self) -> None:
        checks = Checks(self)
        instead = "must be a number of steps, minutes or epochs: '500 steps', '10 minutes', '1 epoch'"
        checks.that("every", Interval.read(self.every) is not None, instead)
        checks.done()


class OnNan(Enum):
    """The effect of a NaN loss or gradient on a run."""

    stop = "stop"
    skip = "skip"


@dataclass
class Test:
    """The test at the end of a run.

    run: whether a test follows the training.
    checkpoint: of the weights; without validation it is the last.
    views: the number of crops of a test image, whose probabilities are averaged: 1, the central one; 2, also its mirror
        image; 10, the paper's corners and centre with their mirrors; 9, the 3x3 grid of cuda-convnet's CIFAR nets.
        Validation always uses the centre.
    """

    __test__ = False  # not a test case of pytest

    run: bool = True
    checkpoint: Which = Which.best
    views: int = 1

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.that("views", self.views in VIEWS, "must be 1, 2, 9 or 10")
        checks.done()


@dataclass
class Trainer:
    """The arguments of Lightning's Trainer, and the additional `gpus`, `compile`, `channels_last` and `on_nan`.

    gpus: null = one device (fastest available); 0 = the CPU; n = n GPUs; -1 = all; a list = those GPUs.
    accelerator, devices: as in Lightning, for other cases than `gpus` (e.g. two processes on the CPU).
    strategy: `auto` is data parallel (`ddp`) on more than one device; `columns` gives each of `model.groups` devices
    one column of the network; two devices if no number is given.
    precision: `auto` is bf16-mixed on a GPU or CPU that computes in it, else 32-true; the result is recorded.
    compile: `true` or a mode of torch.compile: `default` (= true), `reduce-overhead`, `max-autotune`.
    channels_last: the memory layout of images and convolutions; null = the faster one.
    on_nan: `stop` ends the run if the loss is NaN; `skip` skips such steps, up to 100 in a row, and waits for each step
        to check it.
    accumulate_grad_batches, gradient_clip_val, deterministic, limit_train_batches, ...: as in Lightning.
    """

    gpus: Any = None
    accelerator: str | None = None
    devices: Any = None
    strategy: str = "auto"
    num_nodes: int = 1
    precision: str = "auto"
    max_epochs: int | None = 10
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | None = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    limit_predict_batches: Any = None
    fast_dev_run: Any = False
    overfit_batches: Any = 0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int = 0
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0
    log_every_n_steps: int = 50
    enable_progress_bar: bool | None = None
    compile: Any = False
    channels_last: bool | None = None
    on_nan: OnNan = OnNan.stop

    def __post_init__(self) -> None:
        checks = Checks(self)
        if self.precision in OLD_PRECISIONS:
            checks.refuse("precision", f"write {OLD_PRECISIONS[self.precision]}")
        else:
            checks.one_of("precision", PRECISIONS)
        for key in (
            "max_epochs",
            "min_epochs",
            "min_steps",
            "log_every_n_steps",
            "num_nodes",
            "accumulate_grad_batches",
        ):
            checks.at_least(key, 1)
        if self.max_epochs is None and self.max_steps == -1 and self.max_time is None:
            checks.refuse(
                "max_epochs", "the run would never end; write a number of epochs, or set max_steps or max_time"
            )
        checks.that("max_steps", self.max_steps == -1 or self.max_steps >= 1, "must be at least 1, or -1 for no limit")
        checks.above("gradient_clip_val", 0)
        checks.one_of("gradient_clip_algorithm", ("norm", "value"))
        checks.one_of("accelerator", ("auto", "cpu", "gpu", "cuda", "mps"))
        checks.one_of("strategy", STRATEGIES)
        checks.one_of("profiler", ("simple", "advanced", "pytorch"))
        self._check_devices(checks)
        for key in LIMITS:
            self._check_limit(checks, key)
        if self.deterministic not in (None, True, False, "warn"):
            checks.refuse("deterministic", "must be true, false, warn or null")
        checks.that(
            "fast_dev_run",
            isinstance(self.fast_dev_run, bool) or _is_count(self.fast_dev_run),
            "must be true, false, or a number of batches",
        )
        self._check_lengths(checks)
        self._check_compile(checks)
        if self.strategy == COLUMNS:
            self._check_columns(checks)
        checks.done()

    @property
    def compile_mode(self) -> str | None:
        """The mode of torch.compile, one of `COMPILE_MODES`; None: the network is not compiled."""
        return COMPILE_MODES[0] if self.compile is True else self.compile or None

    @property
    def records_cuda_graphs(self) -> bool:
        """Whether the compiled network is replayed from CUDA graphs where it is on a GPU."""
        return self.compile_mode not in (None, COMPILE_MODES[0])

    def _check_devices(self, checks: Checks) -> None:
        gpus, devices = self.gpus, self.devices
        listed = isinstance(gpus, list) and bool(gpus) and all(_is_count(index) for index in gpus)
        if gpus is not None and not listed and not (_is_count(gpus) or gpus == -1):
            checks.refuse("gpus", "must be null, 0 for the CPU, a number of GPUs, -1 for all, or a list such as [0,2]")
        if gpus is not None and (devices is not None or self.accelerator is not None):
            checks.refuse("gpus", "set either trainer.gpus, or trainer.accelerator and trainer.devices, not both")
        if devices is not None and not (isinstance(devices, list) or devices in ("auto", -1) or _is_count(devices)):
            checks.refuse("devices", "must be a number of devices, a list of their indices, or auto")

    def _check_compile(self, checks: Checks) -> None:
        if not isinstance(self.compile, bool):
            known = isinstance(self.compile, str) and self.compile in COMPILE_MODES
            checks.that(
                "compile", known, f"must be true, false, {', '.join(COMPILE_MODES[:-1])} or {COMPILE_MODES[-1]}"
            )
        # A graph overwrites its gradients when it is replayed, so that they cannot be accumulated over batches:
        # https://github.com/pytorch/pytorch/issues/169545.
        if self.compile in COMPILE_MODES[1:] and self.accumulate_grad_batches > 1:
            checks.refuse("compile", "does not go with trainer.accumulate_grad_batches above 1; write default")

    def _check_limit(self, checks: Checks, key: str) -> None:
        value = getattr(self, key)
        usable = value is None or _is_amount(value)
        checks.that(key, usable, "must be a number of batches, or a fraction of them from 0.0 to 1.0")

    def _check_columns(self, checks: Checks) -> None:
        """Yields a problem for each setting that does not work with columns and would fail only later."""
        unlike = f"does not go with trainer.strategy={COLUMNS}; write"
        checks.that("compile", not self.compile, f"{unlike} false: the exchanges between the columns are not compiled")
        synced = f"{unlike} false: every rank sees all images"
        checks.that("sync_batchnorm", not self.sync_batchnorm, synced)
        scaled = f"{unlike} bf16-mixed or 32-true: each rank would choose a scale of its own"
        checks.that("precision", self.precision != "16-mixed", scaled)
        checks.that("num_nodes", self.num_nodes == 1, f"{unlike} 1: the columns are of one machine")

    def _check_lengths(self, checks: Checks) -> None:
        timed = self.max_time is None or re.fullmatch(DURATION, self.max_time) is not None
        checks.that("max_time", timed, "must be days:hours:minutes:seconds, such as 00:12:00:00")
        often = self.val_check_interval
        known = often is None or (isinstance(often, str) and re.fullmatch(DURATION, often)) or _is_amount(often)
        checks.that(
            "val_check_interval", bool(known), "must be a number of batches, a fraction of an epoch, or DD:HH:MM:SS"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_amount(value: Any) -> bool:
    """Returns whether Lightning accepts it as a number of batches (an integer) or a part of them (0.0 to 1.0)."""
    return _is_count(value) or (isinstance(value, float) and 0 <= value <= 1)


@dataclass
class Csv:
    """metrics.csv and steps.csv in the run folder. They are always written; this entry only lists them."""

    name: str = "csv"


@dataclass
class TensorBoard:
    """TensorBoard's event files, in the run folder unless `dir` is given."""

    name: str = "tensorboard"
    dir: str | None = None


@dataclass
class Mlflow:
    """An MLflow run. `uri` null is $MLFLOW_TRACKING_URI, else the SQLite file `mlflow.db` beside the runs.

    `experiment` null is $MLFLOW_EXPERIMENT_NAME, else the run's name.
    """

    name: str = "mlflow"
    uri: str | None = None
    experiment: str | None = None


@dataclass
class Wandb:
    """A Weights & Biases run; `offline` writes into the run folder and contacts nothing, whatever $WANDB_MODE is.

    `project` null is $WANDB_PROJECT, else alexnet_exp; `entity` null is $WANDB_ENTITY, else the user's default.
    """

    name: str = "wandb"
    project: str | None = None
    entity: str | None = None
    offline: bool = True


@dataclass
class Ema:
    """An exponential moving average of the weights, which validation and test use.

    After n updates the decay is (1 + n) / (10 + n), until that passes `decay`.
    """

    name: str = "ema"
    decay: float = 0.999
    update_every_n_steps: int = 1
    update_starting_at_step: int | None = None

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.below("decay", 0, 1)
        checks.at_least("update_every_n_steps", 1)
        checks.at_least("update_starting_at_step", 0)
        checks.done()


@dataclass
class EarlyStopping:
    """Stops when `monitor` has not improved by `min_delta` for `patience` epochs (Lightning's EarlyStopping).

    mode: `min` or `max`; null = as the monitor's name says: a loss is minimized, an accuracy maximized. Validation
    fills it in, so that a configuration that says which and one that does not are of one experiment.
    """

    name: str = "early_stopping"
    monitor: str = "val/top1"
    mode: str | None = None
    patience: int = 5
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.one_of("mode", ("min", "max"))
        checks.at_least("patience", 1)
        checks.at_least("min_delta", 0)
        checks.done()
        self.mode = self.mode or ("max" if higher_is_better(self.monitor) else "min")


@dataclass
class PreciseBn:
    """After each epoch, also validates with batch norm statistics recomputed on `images` training images.

    Adds the columns `val/loss_precise_bn` and `val/top1_precise_bn`; training is not affected.
    """

    name: str = "precise_bn"
    images: int = 10_000

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.at_least("images", 1)
        checks.done()


@dataclass
class TrainError:
    """After each epoch also evaluates training images, without dropout and augmentation: column `train/top1_eval`.

    images: their number, a part of each class, the same ones in every epoch; null = all. target: an error from 0 to 1.
    The epochs until it is first reached, interpolated linearly between two epochs, are the
        metric `train/epochs_to_target` of the run, which is missing if it is not reached. null = no target.
    stop: whether the run ends when it reaches the target.
    """

    name: str = "train_error"
    images: int | None = 10_000
    target: float | None = 0.25
    stop: bool = False

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.at_least("images", 1)
        checks.between("target", 0, 1)
        checks.that("stop", not self.stop or self.target is not None, "needs a target, such as 0.25")
        checks.done()


@dataclass
class Config:
    """A whole experiment. Nodes of type Any are checked separately: `name` chooses a dataclass, `_target_` a class.

    objective: the metric that ranks the jobs of a sweep and leads a search; losses, errors and times are
        minimized, all other metrics maximized.
    resume: whether to resume the run in the folder (`hydra.run.dir`), if there is one: for a command that a scheduler
        runs again.
    """

    name: str = "train"
    seed: int = 1
    tags: list[str] = field(default_factory=list)
    note: str = ""
    data_root: str | None = None
    resume: bool = False
    objective: str = "val/top1"
    paper_claim: Any = None  # see paper_claim.PaperClaim: one, or a list of them
    model: Any = None
    data: Any = None
    optim: Any = None
    schedule: Any = None
    trainer: Any = None
    module: Any = None
    logger: Any = field(default_factory=dict)
    callbacks: Any = field(default_factory=dict)
    loss: Loss = field(default_factory=Loss)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    test: Test = field(default_factory=Test)

    def __post_init__(self) -> None:
        checks = Checks(self)
        named = bool(self.name.strip()) and not set(self.name) & set("/\\\0=,") and self.name not in (".", "..")
        checks.that("name", named, "must be a folder's name: no slash, no comma, no equals sign")
        checks.at_least("seed", 0)
        measured = bool(re.fullmatch(r"(train|val|test)/\w+", self.objective))
        checks.that("objective", measured, "must be a metric: val/top1, val/loss, ...")
        try:
            paper_claims(self.paper_claim)
        except Refused as refused:
            checks.problems += refused.problems
        checks.done()


LOGGERS: dict[str, type] = {"csv": Csv, "tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb}
CALLBACKS: dict[str, type] = {
    "ema": Ema,
    "early_stopping": EarlyStopping,
    "precise_bn": PreciseBn,
    "train_error": TrainError,
}

# The groups of conf/ with one node, and the dataclasses among which its `name` selects.
NODES: dict[str, dict[str, type]] = {
    "model": {"alexnet": Network},
    "data": dict(DATA),
    "optim": dict(OPTIMIZERS),
    "schedule": dict(SCHEDULES),
    "trainer": {"trainer": Trainer},
}
# The groups with any number of named nodes.
COLLECTIONS: dict[str, dict[str, type]] = {"logger": LOGGERS, "callbacks": CALLBACKS}
