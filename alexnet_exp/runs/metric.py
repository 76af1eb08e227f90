"""What a metric's key says: which end of it is good, how people call it, how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable

_WORDS = {"top1": "top-1", "top5": "top-5", "lr": "learning rate", "images_per_s": "images/s"}
# what is better when it is smaller; everything else is taken to be better when it is greater
_COSTS = (
    *("loss", "error", "err", "mse", "mae", "rmse", "mape", "nll", "ce", "bce", "entropy", "kl", "perplexity", "ppl"),
    *("ece", "brier", "wer", "cer", "fid", "seconds", "minutes", "epochs"),
)


def higher_is_better(key: str) -> bool:
    """Whether more of the metric is better: `val/top1` yes, `val/loss` no."""
    # the classes of torchmetrics are one word: MeanSquaredError
    return not any(word in _COSTS or word.endswith(("loss", "error")) for word in _words(key))


def is_accuracy(key: str) -> bool:
    """Whether it is a share of images from 0 to 1, shown in percent, with differences in points."""
    return any(word in ("top1", "top5", "acc", "accuracy") for word in _words(key))


def in_percent(key: str, values: Iterable[float]) -> bool:
    """Whether these are an accuracy's values from 0 to 100, as other projects may write it."""
    return is_accuracy(key) and any(1.5 < value < math.inf for value in values)


def label(key: str) -> str:
    """For people: `test/top1` is `test top-1`, `val/top1_precise_bn` is `val top-1 (precise bn)`."""
    split, _, name = key.rpartition("/")
    name, _, rest = (name, "", "") if name in _WORDS else name.partition("_")
    words = [split.replace("/", " "), _WORDS.get(name, name)]
    if rest:
        words.append(f"({rest.replace('_', ' ')})" if name in _WORDS else rest.replace("_", " "))
    return " ".join(word for word in words if word)


def unit(key: str) -> str:
    """In what differences are told: `points of test top-1`, `of val loss`."""
    return f"points of {label(key)}" if is_accuracy(key) else f"of {label(key)}"


def value_text(key: str, value: float | None) -> str:
    """A value as people read it: an accuracy in percent (`97.36%`), all else with four figures; `-` for none."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}%" if is_accuracy(key) else f"{value:.4g}"


def difference_text(key: str, difference: float, *, sign: bool = False) -> str:
    """A difference, without its unit: an accuracy's in points, so 0.0042 is `0.42`; all else with three figures.

    One figure where two places would round it to nothing. sign: `+0.42`.
    """
    value = 100 * difference if is_accuracy(key) else difference
    if abs(value) < 1e-9:  # what rounding leaves of none
        return "0"
    text = (f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.1g}") if is_accuracy(key) else f"{value:.3g}"
    return f"+{text}" if sign and value > 0 else text


def _words(key: str) -> list[str]:
    return key.rpartition("/")[2].lower().replace("-", "_").split("_")
