"""An exponential moving average of the weights whose decay starts low: the first weights are soon forgotten."""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Ema(WeightAveraging):
    """Lightning's WeightAveraging with the decay min(decay, (1 + n) / (10 + n)) at the update after n others.

    The formula is that of TensorFlow's ExponentialMovingAverage. Buffers, such as batch norm's statistics, are averaged
    like the weights; counters are copied. n lies in the checkpoint, with the average.
    """

    def __init__(self, decay: float, update_every_n_steps: int, update_starting_at_step: int | None):
        def average(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            # 1 - (1 + n) / (10 + n) = 9 / (10 + n); by tensors, as reading n from a GPU would wait for it
            weight = torch.clamp(9 / (10 + torch.as_tensor(updates)), min=1 - decay)
            return averaged + weight.to(averaged.dtype) * (current - averaged)

        super().__init__(use_buffers=True, avg_fn=average)
        self.every, self.first = update_every_n_steps, update_starting_at_step or 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After which steps (counted from 0) the average takes the weights in; never at an epoch's end alone."""
        return step_idx is not None and step_idx >= self.first and step_idx % self.every == 0
