"""Derives a metric's direction, unit, label and number format from its key.

Every ranking, verdict, search and chart uses this module. `declare` sets what a name does not show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType

_WORDS = {"top1": "top-1", "top5": "top-5", "lr": "learning rate", "images_per_s": "images/s"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ACCURACIES = frozenset(("acc", "accuracy", "accuracies"))
_TOP = re.compile(r"(?<![a-z])top[-_ @]?\d+(?![a-z0-9])")
# words of metrics that are minimized
_ERRORS = frozenset(
    (
        *("loss", "losses", "error", "errors", "err", "errs", "mse", "mae", "rmse", "rmsle", "msle", "mape", "smape"),
        *("wape", "mase", "sse", "rss", "rmsd", "nll", "ce", "bce", "xent", "entropy", "crossentropy", "kl", "kld"),
        *("jsd", "hinge", "huber", "perplexity", "ppl", "bpc", "bpd", "bpb", "ece", "brier", "wer", "cer", "fid"),
        *("lpips", "epe", "chamfer", "hausdorff", "misclassification", "misclassifications", "misclassified", "miss"),
        *("mistakes", "wrong", "incorrect", "false", "fpr", "fnr", "eer", "hamming", "regret", "cost", "distance"),
        *("divergence", "discrepancy", "deviation", "aic", "bic"),
    )
)
_TIMES = frozenset(
    (
        *("time", "latency", "runtime", "walltime", "duration", "elapsed", "delay", "seconds", "secs", "sec"),
        *("minutes", "hours"),
    )
)
# words of metrics that are maximized
_SCORES = frozenset(
    (
        *("f1", "fscore", "auc", "auroc", "auprc", "roc", "ap", "map", "iou", "miou", "dice", "jaccard", "precision"),
        *("recall", "sensitivity", "specificity", "bleu", "rouge", "meteor", "r2", "psnr", "ssim", "score", "reward"),
        *("return", "returns", "mcc", "kappa", "ndcg", "mrr", "correct", "hits", "likelihood", "correlation"),
        *("throughput", "fps", "speed", "speedup"),
    )
)
_RATE = re.compile(r"(per[_ ]?|/ ?)(s|secs?|seconds?|ms|min|minutes?|h|hours?)$")
_ANY_SPLIT = "|".join(sorted(SPLITS, key=len, reverse=True))
_SPLIT = re.compile(rf"({_ANY_SPLIT})[/_.]")
_FUSED = re.compile(rf"({_ANY_SPLIT})(?=.)")
_FIRST = re.compile(rf"({_ANY_SPLIT})([/_.\- ])([^\W_].*)", re.IGNORECASE)  # valid_acc, test/acc, Test Accuracy
_LAST = re.compile(rf"([\w@-]+)/({_ANY_SPLIT})", re.IGNORECASE)  # Loss/train
# between two words of CamelCase
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class _Declared:
    higher_is_better: bool | None
    percent: bool | None


_NONE: Mapping[str, _Declared] = MappingProxyType({})
_declared: ContextVar[Mapping[str, _Declared]] = ContextVar("declared", default=_NONE)


@contextmanager
def declare(key: str, *, higher_is_better: bool | None = None, percent: bool | None = None) -> Iterator[None]:
    """Sets the direction of a metric, and whether it is printed in percent, inside the block. None: by its name.

    It applies to every split: a declaration of `test/score` is one of `val/score`, too.
    """
    token = _declared.set({**_declared.get(), _name(key): _Declared(higher_is_better, percent)})
    try:
        yield
    finally:
        _declared.reset(token)


def metric_name(column: str) -> str:
    """Returns a column's name as `split/metric`: `valid_acc` and `Acc/validation` become `val/acc`; others stay."""
    found = _FIRST.fullmatch(column)
    if found:
        split, between, rest = found.groups()
        return f"{SPLITS[split.lower()]}/{rest.lower() if between == ' ' else rest}"
    found = _LAST.fullmatch(column)
    return f"{SPLITS[found[2].lower()]}/{found[1]}" if found else column


def has_split(column: str) -> bool:
    """Returns whether a column's name begins or ends with a split."""
    return metric_name(column) != column or ("/" in column and _FIRST.fullmatch(column) is not None)


def higher_is_better(key: str) -> bool:
    """Returns whether a higher value is better: `val/top1` yes, `val/loss` no, unknown names yes."""
    return _direction(key) is not False


def direction_is_known(key: str) -> bool:
    """Returns whether the name or `declare` gives the direction of the metric."""
    return _direction(key) is not None


def direction_text(key: str) -> str:
    """Returns the direction used for a verdict as a sentence; empty for an accuracy."""
    up = _direction(key)
    if up is None:
        return f"Higher {label(key)} is assumed to be better; --lower-is-better reverses this"
    if up and is_accuracy(key):
        return ""
    return f"{'Higher' if up else 'Lower'} is better"


def is_accuracy(key: str) -> bool:
    """Returns whether it is a fraction of images, 0 to 1, printed in percent with differences in points."""
    declaration = _declared.get().get(_name(key))
    if declaration is not None and declaration.percent is not None:
        return declaration.percent
    words = _words(key)
    return not words & _TIMES and (bool(words & _ACCURACIES) or _TOP.search(key.lower()) is not None)


def in_percent(key: str, values: Iterable[float]) -> bool:
    """Returns whether the values are an accuracy from 0 to 100, as other projects may record it."""
    return is_accuracy(key) and any(1.5 < value < math.inf for value in values)


def is_time(key: str) -> bool:
    """Returns whether the name is that of a duration or speed: `epoch_time_s`, `images/s`; not `time_embedding`."""
    words = re.findall(r"[^\W\d_]+", _HUMPS.sub(" ", key).lower())
    if len(words) > 1 and words[-1] in ("s", "ms", "h", "min"):
        del words[-1]
    return _RATE.search(_name(key)) is not None or (bool(words) and words[-1] in _TIMES)


def is_measure(key: str) -> bool:
    """Returns whether the name contains a word for an accuracy, a loss, an error or a score."""
    words = _words(key)
    return is_accuracy(key) or bool(words & (_ERRORS | _SCORES)) or any(map(_ends_in_error, words))


def label(key: str) -> str:
    """Returns the name to print: `test/top1` is `test top-1`, `val/top1_precise_bn` is `val top-1 (precise bn)`."""
    split, _, name = key.rpartition("/")
    name, _, rest = (name, "", "") if name in _WORDS else name.partition("_")
    words = [split.replace("/", " "), _WORDS.get(name, name)]
    if rest:
        words.append(f"({rest.replace('_', ' ')})" if name in _WORDS else rest.replace("_", " "))
    return " ".join(word for word in words if word)


def unit(key: str) -> str:
    """Returns the unit of differences: `points of test top-1`, `of val loss`."""
    return f"points of {label(key)}" if is_accuracy(key) else f"of {label(key)}"


def value_text(key: str, value: float | None) -> str:
    """Returns a value as text: an accuracy in percent (`97.36%`), other metrics with four digits; `-` for None."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}%" if is_accuracy(key) else f"{value:.4g}"


def difference_text(key: str, difference: float, *, sign: bool = False) -> str:
    """Returns a difference as text without its unit: of an accuracy in points (0.0042 is `0.42`), else three digits.

    If two decimals would round it to zero, it has one significant digit. sign: `+0.42`.
    """
    value = 100 * difference if is_accuracy(key) else difference
    if abs(value) < 1e-9:  # rounding error of a zero
        return "0"
    text = (f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.1g}") if is_accuracy(key) else f"{value:.3g}"
    return f"+{text}" if sign and value > 0 else text


def _direction(key: str) -> bool | None:
    """Returns True if higher is better, False if lower is better, None if unknown."""
    declaration = _declared.get().get(_name(key))
    if declaration is not None and declaration.higher_is_better is not None:
        return declaration.higher_is_better
    words = _words(key)
    # scikit-learn's neg_mean_squared_error
    if "neg" in words or _RATE.search(_name(key)):
        return True
    if words & _ERRORS or any(map(_ends_in_error, words)) or {"negative", "likelihood"} <= words:
        return False
    if words & {*_TIMES, "epochs"} or _name(key).endswith(("_ms", " ms")):
        return False
    return True if words & _SCORES or is_accuracy(key) else None


def _ends_in_error(word: str) -> bool:
    """`logloss`, `mediansquarederror`."""
    return word.endswith(("loss", "error", "crossentropy"))


def _name(key: str) -> str:
    """Returns the name in lower case without the split: `test/Score` is `score`."""
    low = key.lower()
    found = _SPLIT.match(low)
    return low[found.end() :] if found else low


def _words(key: str) -> set[str]:
    """Returns its words in lower case, split at non-letters and in CamelCase; `err1` gives `err` and `err1`."""
    words = set()
    for word in re.findall(r"[^\W_]+", _HUMPS.sub(" ", key)):
        low = word.lower()
        for one in (low, _FUSED.sub("", low)):
            words |= {one, one.strip("0123456789")}
    return words
