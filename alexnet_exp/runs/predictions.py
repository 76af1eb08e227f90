"""The class probabilities of a split's images that a run keeps: written and read here alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OF_TEST = "predictions/test.npz"  # within the run's folder
ALL_CLASSES = 20  # above this many classes only the most probable ones are kept


@dataclass(frozen=True)
class Kept:
    """Of each of N images, in the split's order."""

    labels: NDArray[np.int64]
    """[N]: the true class."""
    probabilities: NDArray[np.float16]
    """[N, kept]: of every class; of many classes of those in `classes`, the most probable first."""
    classes: NDArray[np.int64] | None = None
    """[N, kept]: which classes the probabilities are of; None: of all, in their order."""

    def guesses(self, count: int) -> NDArray[np.int64]:
        """[N, count]: the most probable classes, the first of equals first."""
        import numpy as np

        best = _most_probable(self.probabilities, count)
        guessed: NDArray[np.int64] = best if self.classes is None else np.take_along_axis(self.classes, best, axis=1)
        return guessed


def _most_probable(probabilities: NDArray[np.float16], count: int) -> NDArray[np.int64]:
    import numpy as np

    found: NDArray[np.int64]
    if count == 1:  # without sorting, the same
        found = probabilities.argmax(axis=1)[:, None]
    else:
        found = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return found


def write_predictions(path: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float16]) -> None:
    """Keeps `labels` [N] and `probabilities` [N, classes]; of many classes the 20 most probable of each image."""
    import numpy as np

    arrays: dict[str, Any] = {"labels": labels}
    if probabilities.shape[1] > ALL_CLASSES:
        top = _most_probable(probabilities, ALL_CLASSES).astype(np.int32)
        arrays |= {"classes": top, "probabilities": np.take_along_axis(probabilities, top, axis=1)}
    else:
        arrays["probabilities"] = probabilities
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_predictions(path: Path) -> Kept:
    """What `write_predictions` wrote. Raises UserError, naming the file, where that is damaged or of something else."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # of damaged bytes zipfile and numpy raise a dozen kinds
        reason = getattr(error, "strerror", None) or "damaged"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    labels, probabilities, classes = (arrays.get(name) for name in ("labels", "probabilities", "classes"))
    if labels is None or probabilities is None:
        raise UserError(f"{path}: not the predictions of a run: labels and probabilities are missing")
    whole = labels.dtype.kind in "iu" and probabilities.dtype.kind == "f"
    whole = whole and labels.shape == probabilities.shape[:1] and probabilities.ndim == 2 and probabilities.size > 0
    if classes is not None:
        whole = whole and classes.dtype.kind in "iu" and classes.shape == probabilities.shape
    whole = whole and min(each.min() for each in (labels, classes) if each is not None) >= 0
    if not whole:
        raise UserError(f"{path}: not the predictions of a run: labels and probabilities do not fit each other")
    return Kept(labels, probabilities, classes)
