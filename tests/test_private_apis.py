"""Every private name of a library that the package uses, with a check of what the package expects of it.

An upgrade of torch, Lightning, Hydra or another library fails here first. A new private use in the source fails too:
add it to `USES` with a check of its signature or behaviour, or use a public name.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import multiprocessing
import multiprocessing.queues
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.connectors.logger_connector.result import _METRICS
from torch import nn

ROOT = Path(__file__).parents[1]
SOURCES = ("alexnet_exp", "hydra_plugins")
# Names with an underscore that are no library's private API: documented, or a part of files.
PUBLIC = {"_exit", "_replace", "_target_", "_global_", "_reconstruct", "_frombuffer", "_core", "_ms"}


def parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


# --- torch


def batch_norm_base() -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    assert all(issubclass(each, _BatchNorm) for each in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm))
    assert {"running_mean", "running_var", "momentum"} <= vars(nn.BatchNorm2d(1)).keys() | nn.BatchNorm2d(
        1
    )._buffers.keys()


def in_dispatch_mode(found: Callable[[], object]) -> tuple[object, object]:
    """Returns what `found` returns outside and inside a mode that sees every operator."""
    from torch.utils._python_dispatch import TorchDispatchMode

    outside = found()
    with TorchDispatchMode():
        return outside, found()


def dispatch_stack() -> None:
    assert in_dispatch_mode(torch._C._len_torch_dispatch_stack) == (0, 1)


def in_trace(found: Callable[[], object]) -> list[object]:
    """Returns what `found` returns outside and inside torch.jit.trace."""
    seen = [found()]

    def traced(x: torch.Tensor) -> torch.Tensor:
        seen.append(found())
        return x + 1

    torch.jit.trace(traced, torch.ones(1), check_trace=False)
    return seen[:2]


def is_tracing() -> None:
    assert in_trace(torch._C._is_tracing) == [False, True]


def in_vmap(found: Callable[[], object]) -> list[object]:
    """Returns what `found` returns outside and inside a transform of torch.func."""
    seen = [found()]

    def mapped(x: torch.Tensor) -> torch.Tensor:
        seen.append(found())
        return x

    torch.func.vmap(mapped)(torch.ones(2))
    return seen


def functorch_active() -> None:
    assert in_vmap(torch._C._are_functorch_transforms_active) == [False, True]


def forward_mode_level() -> None:
    import torch.autograd.forward_ad as forward_ad

    assert forward_ad._current_level < 0
    with forward_ad.dual_level():
        assert forward_ad._current_level >= 0


def module_hooks() -> None:
    module = nn.ReLU()
    module.register_forward_hook(lambda *_: None)
    assert module._forward_hooks
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        assert hasattr(module, hooks)
        assert hasattr(nn.modules.module, f"_global{hooks}")
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert nn.modules.module._global_forward_hooks
    finally:
        handle.remove()


def module_contents() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    assert list(module._modules) == ["0"]
    assert list(module[0]._parameters) == ["weight", "bias"]


def foreach_operators() -> None:
    values = [torch.ones(2)]
    torch._foreach_mul_(values, 3.0)
    torch._foreach_add_(values, [torch.ones(2)], alpha=-1.0)
    assert values[0].tolist() == [2.0, 2.0]


def cpu_features() -> None:
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)


def loader_workers() -> None:
    loader = torch.utils.data.DataLoader([1, 2], num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    assert loader._iterator is None
    iterator = iter(loader)
    try:
        assert loader._iterator is iterator
        assert [worker.is_alive() for worker in iterator._workers] == [True]  # type: ignore[attr-defined]
        assert iterator._workers_done_event.is_set() is False  # type: ignore[attr-defined]
    finally:
        iterator._shutdown_workers()  # type: ignore[attr-defined]


# --- Lightning


@cache
def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def checkpoint_connector() -> None:
    assert "weights_only" in parameters(trainer()._checkpoint_connector.dump_checkpoint)


def logger_connector() -> None:
    assert isinstance(type(trainer()._logger_connector).metrics, property)
    assert set(_METRICS.__annotations__) == {"callback", "log", "pbar"}


def signal_connector() -> None:
    assert parameters(trainer()._signal_connector.register_signal_handlers) == []


def epoch_loop() -> None:
    loop = trainer().fit_loop.epoch_loop
    assert trainer().fit_loop._data_fetcher is None
    assert parameters(loop._should_accumulate) == parameters(loop._num_ready_batches_reached) == []
    assert parameters(loop._should_check_val_fx) == ["data_fetcher"]


def sigterm_broadcast() -> None:
    loop = trainer().fit_loop.epoch_loop
    assert parameters(loop._broadcast_sigterm_tensor) == []
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(type(loop)), "the loop calls what we replace"


def current_hook() -> None:
    module = pl.LightningModule()
    assert module._current_fx_name is None


def progress_description() -> None:
    assert parameters(pl.callbacks.RichProgressBar._get_train_description) == ["self", "current_epoch"]


def ddp_model() -> None:
    assert parameters(pl.strategies.DDPStrategy._setup_model) == ["self", "model"]


def tensorboard_writer(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    assert logger._experiment is None
    writer = logger.experiment
    assert logger._experiment is writer
    assert parameters(writer._get_file_writer().add_summary)[0] == "summary"
    writer.close()


# --- Hydra, OmegaConf, Optuna


def hydra_parser() -> None:
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    actions = {action.dest: action for action in parser._actions}
    assert {"overrides", "cfg", "resolve", "config_dir", "config_path", "experimental_rerun"} <= actions.keys()
    assert "--multirun" in parser._option_string_actions


def hydra_callbacks() -> None:
    from hydra._internal.callbacks import Callbacks

    assert parameters(Callbacks.__init__) == ["self", "config"]
    for event in ("run_start", "run_end", "multirun_start", "multirun_end", "job_start", "job_end"):
        assert callable(getattr(Callbacks, f"on_{event}"))


def overrides_dirname() -> None:
    from hydra._internal.config_loader_impl import get_overrides_dirname
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(["b=2", "a=1"])
    found = get_overrides_dirname(parsed, kv_sep="=", item_sep=",", exclude_keys=["b"])
    assert found == "a=1"


def basic_sweeper() -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    assert parameters(BasicSweeper._parse_config) == ["self"]
    assert parameters(BasicSweeper.__init__) == ["self", "max_batch_size", "params"]
    sweeper = BasicSweeper(max_batch_size=None, params={"seed": "1,2"})
    assert sweeper._parse_config() == ["seed=1,2"]


def omegaconf_yaml() -> None:
    import yaml
    from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

    assert yaml.load("a: 1e3", Loader=get_yaml_loader()) == {"a": 1000.0}
    dumped = yaml.dump({"a": "1e3"}, Dumper=get_omega_conf_dumper())
    assert dumped == "a: '1e3'\n"


def omegaconf_nodes() -> None:
    from omegaconf import DictConfig, OmegaConf

    node = OmegaConf.create({"a": {"b": 1}})
    assert isinstance(node._get_node("a"), DictConfig)
    assert not node._is_none()
    assert DictConfig(None)._is_none()


def optuna_trial() -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study()
    study.ask()
    assert optuna.trial.Trial(study, study.trials[0]._trial_id).number == 0


# --- the standard library


def argparse_actions() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag")
    assert {"-h", "--help", "--flag"} == parser._option_string_actions.keys()


def queue_errors() -> None:
    assert parameters(multiprocessing.queues.Queue._on_queue_feeder_error) == ["e", "obj"]  # type: ignore[attr-defined]


def process_configuration() -> None:
    assert isinstance(multiprocessing.current_process()._config, dict)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Use:
    """A private name: as the source spells it from its first private part on, the files that use it, and a check."""

    name: str
    files: tuple[str, ...]
    check: Callable[..., None]


CALLBACK = "training/checkpoints/callback.py"
DECODER, STAGE, TRACING = "data/decoder.py", "model/stage.py", "kernels/tracing.py"
GRID = "hydra_plugins/alexnet_exp/grid.py"

USES = [
    Use("torch.nn.modules.batchnorm._BatchNorm", ("training/callbacks/precise_bn.py",), batch_norm_base),
    Use("_C._len_torch_dispatch_stack", (TRACING,), dispatch_stack),
    Use("_C._is_tracing", (TRACING,), is_tracing),
    Use("_C._are_functorch_transforms_active", (TRACING,), functorch_active),
    Use("_current_level", (TRACING,), forward_mode_level),
    Use("_forward_hooks", (STAGE,), module_hooks),
    Use("_forward_pre_hooks", (STAGE,), module_hooks),
    Use("_backward_hooks", (STAGE,), module_hooks),
    Use("_backward_pre_hooks", (STAGE,), module_hooks),
    Use("_modules", ("model/network.py", "model/columns.py"), module_contents),
    Use("_parameters", (STAGE,), module_contents),
    Use("_foreach_add_", ("optim/krizhevsky.py", "optim/muon.py"), foreach_operators),
    Use("_foreach_mul_", ("optim/krizhevsky.py", "optim/muon.py"), foreach_operators),
    Use("_is_avx512_bf16_supported", ("training/devices.py",), cpu_features),
    Use("_is_amx_tile_supported", ("training/devices.py",), cpu_features),
    Use("_iterator", (DECODER,), loader_workers),
    Use("_workers", (DECODER,), loader_workers),
    Use("_workers_done_event", (DECODER,), loader_workers),
    Use("_shutdown_workers", (DECODER,), loader_workers),
    Use("_checkpoint_connector.dump_checkpoint", (CALLBACK,), checkpoint_connector),
    Use("_logger_connector.metrics", ("training/metrics.py",), logger_connector),
    Use("_signal_connector.register_signal_handlers", ("runs/status.py",), signal_connector),
    Use("_data_fetcher", (CALLBACK,), epoch_loop),
    Use("_should_accumulate", (CALLBACK,), epoch_loop),
    Use("_num_ready_batches_reached", (CALLBACK,), epoch_loop),
    Use("_should_check_val_fx", (CALLBACK,), epoch_loop),
    Use("_broadcast_sigterm_tensor", ("training/trainer.py",), sigterm_broadcast),
    Use("_current_fx_name", ("training/module.py",), current_hook),
    Use("_get_train_description", ("training/callbacks/progress.py",), progress_description),
    Use("_setup_model", ("training/strategy.py",), ddp_model),
    Use("_experiment", ("training/loggers/tensorboard.py",), tensorboard_writer),
    Use("_get_file_writer", ("training/loggers/tensorboard.py",), tensorboard_writer),
    Use("hydra._internal.utils.get_args_parser", ("cli/train.py", "sweep/plan/folder.py"), hydra_parser),
    Use("_actions", ("cli/train.py",), hydra_parser),
    Use("hydra._internal.callbacks.Callbacks", ("config/hydra_session.py",), hydra_callbacks),
    Use("hydra._internal.config_loader_impl.get_overrides_dirname", ("config/composer.py",), overrides_dirname),
    Use("hydra._internal.core_plugins.basic_sweeper.BasicSweeper", (GRID,), basic_sweeper),
    Use("_parse_config", (GRID,), basic_sweeper),
    Use("omegaconf._utils.get_omega_conf_dumper", ("config/hydra_files.py",), omegaconf_yaml),
    Use("omegaconf._utils.get_yaml_loader", ("config/overrides.py",), omegaconf_yaml),
    Use("_get_node", ("config/compose.py", "config/nodes.py"), omegaconf_nodes),
    Use("_is_none", ("config/compose.py", "config/nodes.py"), omegaconf_nodes),
    Use("_trial_id", ("sweep/search/study.py",), optuna_trial),
    Use("_option_string_actions", ("cli/parser.py", "cli/train.py"), argparse_actions),
    Use("_on_queue_feeder_error", (DECODER,), queue_errors),
    Use("_config", ("processes/children.py",), process_configuration),
]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
def test_library_has_the_private_name(use: Use, tmp_path: Path) -> None:
    use.check(**({"tmp_path": tmp_path} if "tmp_path" in parameters(use.check) else {}))


# --- the table is complete


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def own_names(tree: ast.AST) -> Iterator[str]:
    """Yields the names that a file defines itself: functions, classes, variables and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Yields the private names of others in a file: imported, after a dot, or in a string that is nothing else."""
    own = set(own_names(tree))
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    parts_of_text = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(SOURCES):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if any(map(is_private, name.split("."))))
        elif isinstance(node, ast.Attribute) and node not in inner:
            path = []
            while isinstance(node, ast.Attribute):
                path.insert(0, node.attr)
                node = node.value
            first = next((index for index, part in enumerate(path) if is_private(part) and part not in own), None)
            if first is not None:
                yield ".".join(path[first:])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts_of_text:
            name = node.value
            if is_private(name) and name.isidentifier() and name not in own:
                yield name


def overridden(file: Path, tree: ast.AST) -> Iterator[str]:
    """Yields the private methods by which a class of a file replaces one of a library's class."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
    if not any(is_private(each.name) for node in classes for each in node.body if isinstance(each, ast.FunctionDef)):
        return
    try:
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    except ImportError:  # of an optional package
        return
    for node in classes:
        found = getattr(module, node.name, None)
        if not isinstance(found, type):
            continue
        libraries = [base for base in found.__mro__[1:] if not base.__module__.startswith(SOURCES)]
        methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        yield from (name for name in filter(is_private, methods) if any(name in vars(base) for base in libraries))


def test_table_has_every_private_use_of_the_source() -> None:
    known = {(use.name, file) for use in USES for file in use.files}
    missing = []
    for folder in SOURCES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            short = file.relative_to(ROOT).as_posix().removeprefix("alexnet_exp/")
            names = {*private_uses(tree), *overridden(file, tree)} - PUBLIC
            listed = {name for name in names if known & {(name, short), (name.partition(".")[0], short)}}
            missing += [f"{short}: {name}" for name in sorted(names - listed)]
    assert missing == [], "add these to USES, with a check"


def test_every_private_use_of_the_table_is_in_the_source() -> None:
    gone = []
    for use in USES:
        for file in use.files:
            text = (ROOT / file if file.startswith(SOURCES) else ROOT / "alexnet_exp" / file).read_text(
                encoding="utf-8"
            )
            module, _, name = use.name.rpartition(".")
            if not (use.name in text or (module in text and name in text)):
                gone.append(f"{file}: {use.name}")
    assert gone == [], "remove these from USES"
