"""Provides a network of your own: an `nn.Module` that takes float [N, C, H, W] and returns logits [N, classes]."""

from __future__ import annotations

from torch import Tensor, nn

from alexnet_exp.model.spec import Input, Scale


class SmallNet(nn.Module):
    """Two convolutions, global average pooling and a linear layer; accepts any input size from 4 up.

    `num_classes` and `in_channels` come from the data and are passed by name; `maps` comes from the configuration.
    """

    input = Input(scale=Scale.unit, mean="channel", std="channel")  # the preprocessing; checkpoints contain it

    def __init__(self, num_classes: int, in_channels: int, maps: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, maps, 5, stride=2, padding=2),
            nn.BatchNorm2d(maps),
            nn.ReLU(),
            nn.Conv2d(maps, 2 * maps, 3, padding=1),
            nn.BatchNorm2d(2 * maps),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * maps, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits
