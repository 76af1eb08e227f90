"""Provides `trainer.strategy=columns`, a Lightning strategy with one column of the network and all images per rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy, Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet_exp.config.schema import COLUMNS
from alexnet_exp.errors import UserError
from alexnet_exp.model.columns import ColumnGroup, ColumnNetwork, cut_parameter, gather_parameter
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.weights import NETWORK_PREFIX
from alexnet_exp.training.checkpoints.format import OPTIMIZERS, WEIGHT_KEYS


def strategy_of(name: str) -> str | Strategy:
    """Returns the `strategy` argument of Lightning's Trainer: our strategy, or the name of one of Lightning's."""
    return ColumnsStrategy() if name == COLUMNS else name


class ColumnsStrategy(DDPStrategy):
    """Starts processes as DDP does, without DDP's wrapper: gradients are not averaged over ranks.

    A rank's column is cut out of the whole network before anything uses its weights (their average, optimizers), and
    stays, also for the test. A checkpoint equals that of one device: rank 0 writes the joined weights and optimizer
    state, and each rank cuts out its part when it loads. Lightning's ModelParallelStrategy would do the same for
    DTensors; `model.columns` explains why we do not use them.
    """

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every rank gets all images, see `replicas`."""
        return {"num_replicas": 1, "rank": 0}

    def setup_environment(self) -> None:
        super().setup_environment()
        module: Any = self.lightning_module
        if isinstance(module.network, AlexNet):
            module.network = ColumnNetwork(module.network, self._link)

    def setup(self, trainer: pl.Trainer) -> None:
        # Skips DDPStrategy's own, which copies the weights of rank 0 to every rank.
        super(ParallelStrategy, self).setup(trainer)

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        return model

    def setup_precision_plugin(self) -> None:
        super().setup_precision_plugin()
        # The norm to clip by is that of all columns, as on one device.
        self.precision_plugin.clip_grad_by_norm = self._clip_by_norm  # type: ignore[method-assign]

    def _clip_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        parameters = list(self.precision_plugin.main_params(optimizer))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        square = torch.nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(square)
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_val, square.sqrt())

    # --- checkpoints

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A collective; only rank 0 writes."""
        for key in WEIGHT_KEYS:
            if key in checkpoint:
                checkpoint[key] = self._whole_state(checkpoint[key])
        # There are none where only weights are saved.
        for optimizer, state in zip(self.optimizers, checkpoint.get(OPTIMIZERS, []), strict=False):
            state["state"] = self._whole_optimizer_state(optimizer, state["state"])
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Cuts this rank's part out of the optimizer state; `ColumnNetwork` does the same for the weights."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint[OPTIMIZERS], strict=True):
            names = self._names(optimizer)
            own = {
                index: {key: self._cut(names[index], value) for key, value in kept.items()}
                for index, kept in state["state"].items()
            }
            states.append({**state, "state": own})
        super().load_optimizer_state_dict({**checkpoint, OPTIMIZERS: states})

    def _whole_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: gather_parameter(name, own, self._link) if name.startswith(NETWORK_PREFIX) else own
            for name, own in state.items()
        }

    def _whole_optimizer_state(self, optimizer: Optimizer, state: Mapping[int, Any]) -> dict[int, Any]:
        names, parameters = self._names(optimizer), _parameters(optimizer)
        return {
            index: {key: self._joined(names[index], key, value, parameters[index]) for key, value in kept.items()}
            for index, kept in state.items()
        }

    def _joined(self, name: str, key: str, value: Any, parameter: nn.Parameter) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.shape != parameter.shape:
            instead = f"keeps {key} of shape {list(value.shape)} for a weight of {list(parameter.shape)}"
            raise UserError(
                f"trainer.strategy={COLUMNS}: this optimizer {instead}, which cannot be joined; use another optimizer"
            )
        return gather_parameter(name, value, self._link)

    def _cut(self, name: str, value: Any) -> Any:
        return cut_parameter(name, value, self._link.rank, self._link.ranks) if isinstance(value, Tensor) else value

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Returns the names of an optimizer's parameters, in the order of its state's keys."""
        assert self.lightning_module is not None
        names = {id(parameter): name for name, parameter in self.lightning_module.named_parameters()}
        return [names[id(parameter)] for parameter in _parameters(optimizer)]

    @property
    def _link(self) -> ColumnGroup:
        return ColumnGroup(self.global_rank, self.world_size)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
