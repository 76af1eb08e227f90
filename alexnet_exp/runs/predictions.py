"""Writes and reads the predictions of a run: the class probabilities of each image of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_exp.atomic import atomic_write
from alexnet_exp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEST_FILE = "predictions/test.npz"  # within the run's folder
MAX_SAVED_CLASSES = 20  # with more classes only the most probable ones are saved


@dataclass(frozen=True)
class SavedPredictions:
    """The predictions for N images, in the order of the split."""

    labels: NDArray[np.int64]
    """[N]: the true class."""
    probabilities: NDArray[np.float16]
    """[N, K]: of every class; if `classes` is set, of those classes, the most probable first."""
    classes: NDArray[np.int64] | None = None
    """[N, K]: the class of each probability; None: all classes, in their order."""

    def guesses(self, count: int) -> NDArray[np.int64]:
        """Returns the most probable classes, [N, count]; of equal probabilities the lower class first."""
        import numpy as np

        best = _most_probable(self.probabilities, count)
        guessed: NDArray[np.int64] = best if self.classes is None else np.take_along_axis(self.classes, best, axis=1)
        return guessed


def _most_probable(probabilities: NDArray[np.float16], count: int) -> NDArray[np.int64]:
    import numpy as np

    found: NDArray[np.int64]
    if count == 1:  # the same result without sorting
        found = probabilities.argmax(axis=1)[:, None]
    else:
        found = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return found


def write_predictions(path: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float16]) -> None:
    """Saves `labels` [N] and `probabilities` [N, classes];

    with more than 20 classes, the 20 most probable of each image.
    """
    import numpy as np

    arrays: dict[str, Any] = {"labels": labels}
    if probabilities.shape[1] > MAX_SAVED_CLASSES:
        top = _most_probable(probabilities, MAX_SAVED_CLASSES).astype(np.int32)
        arrays |= {"classes": top, "probabilities": np.take_along_axis(probabilities, top, axis=1)}
    else:
        arrays["probabilities"] = probabilities
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_predictions(path: Path) -> SavedPredictions:
    """Returns what `write_predictions` wrote. Raises UserError with the file if it is damaged or has other contents."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile and numpy raise many kinds for damaged bytes
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
        raise UserError(
            f"{path}: not the predictions of a run: the shapes or types of labels and probabilities do not match"
        )
    return SavedPredictions(labels, probabilities, classes)
