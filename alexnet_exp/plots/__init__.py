"""Draws pictures of runs as PNG files from lists and numpy arrays. Does not import torch."""

from alexnet_exp.plots.confusion import confusion_matrix
from alexnet_exp.plots.curves import learning_curves, schedule
from alexnet_exp.plots.filters import filters
from alexnet_exp.plots.images import neighbours, predictions

__all__ = ["confusion_matrix", "filters", "learning_curves", "neighbours", "predictions", "schedule"]
