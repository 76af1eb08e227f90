"""Provides the entries of result.json that are known before training: command, code, machine, network, data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alexnet_exp.config.schema import Config
from alexnet_exp.model.cost import layers, totals
from alexnet_exp.model.spec import Network
from alexnet_exp.runs import provenance
from alexnet_exp.runs.result import COPIED_SETTINGS
from alexnet_exp.training.build import Experiment
from alexnet_exp.training.devices import Placement
from alexnet_exp.training.kernel_choice import RunKernels


def start_info(config: Config, code: provenance.Code) -> dict[str, Any]:
    """Returns what is known before anything is built: the user's words, code, versions and machine."""
    given = {key: getattr(config, key) for key in COPIED_SETTINGS}
    return {**given, "cwd": str(Path.cwd()), "commit": code.commit, "dirty": code.dirty, **provenance.environment()}


def build_info(experiment: Experiment, placement: Placement, kernels: RunKernels) -> dict[str, Any]:
    """Returns what is known once the data is open: the network's size, device and precision, the data."""
    trainer = experiment.config.trainer
    counted = totals(layers(experiment.spec)) if isinstance(experiment.spec, Network) else None
    batch = getattr(experiment.config.data, "batch_size", None)
    return {
        "parameters": sum(parameter.numel() for parameter in experiment.network.parameters()),
        "multiply_adds": counted.multiply_adds if counted else None,
        "device": placement.device_name,
        "accelerator": placement.accelerator,
        "ranks": placement.ranks * trainer.num_nodes,
        "precision": placement.precision,
        "channels_last": placement.channels_last,
        **kernels.record(),
        "threads": torch.get_num_threads() if placement.accelerator == "cpu" else None,
        "deterministic": bool(trainer.deterministic),
        "effective_batch": batch * trainer.accumulate_grad_batches if batch else None,
        "fingerprint": getattr(experiment.data, "fingerprint", None),
        "classes": len(experiment.card["classes"]),
        "class_names": experiment.card["classes"],
    }
