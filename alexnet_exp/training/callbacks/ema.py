"""Provides an exponential moving average of the weights with a decay that is warmed up."""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Ema(WeightAveraging):
    """Lightning's WeightAveraging with the decay min(decay, (1 + n) / (10 + n)) after n updates.

    The formula is that of TensorFlow's ExponentialMovingAverage. Buffers, such as batch norm's statistics, are averaged
    like the weights; counters are copied. The checkpoint contains n and the average.
    """

    def __init__(self, decay: float, update_every_n_steps: int, update_starting_at_step: int | None):
        def average(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            # 1 - (1 + n) / (10 + n) = 9 / (10 + n); with tensors, since reading n from a GPU would wait for the GPU
            weight = torch.clamp(9 / (10 + torch.as_tensor(updates)), min=1 - decay)
            return averaged + weight.to(averaged.dtype) * (current - averaged)

        super().__init__(use_buffers=True, avg_fn=average)
        self.every, self.first = update_every_n_steps, update_starting_at_step or 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Returns whether the average is updated after this step (counted from 0); never at an epoch's end."""
        return step_idx is not None and step_idx >= self.first and step_idx % self.every == 0
