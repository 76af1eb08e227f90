"""Compiles the network of an experiment, in the mode that `trainer.compile` names."""

from __future__ import annotations

from alexnet_exp.config.schema import COMPILE_MODES
from alexnet_exp.training.build import Experiment
from alexnet_exp.training.module import AlexNetModule


def compile_network(experiment: Experiment, accelerator: str) -> None:
    """Compiles the network in place, where `trainer.compile` asks for it: `torch.compile` would rename its parameters.

    Batches of another size, such as the last of an epoch, compile once more, with a dynamic batch size. A module
    of the user must itself clone the outputs that it keeps, in a mode that records CUDA graphs.
    """
    trainer = experiment.config.trainer
    if trainer.compile_mode is None:
        return
    if trainer.compile_mode == COMPILE_MODES[0]:
        experiment.network.compile()
    else:
        experiment.network.compile(mode=trainer.compile_mode)
    if isinstance(experiment.module, AlexNetModule):
        experiment.module.compiled = True
        experiment.module.replays_graphs = trainer.records_cuda_graphs and accelerator == "cuda"
