"""Exports a trained network as ONNX, checked against torch's output, and as safetensors."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from alexnet_exp.errors import UserError, missing_package
from alexnet_exp.inference.classifier import Classifier

LOGITS_TOLERANCE = 1e-3  # relative to the largest logit: onnxruntime sums in another order
ONNX_OPSET = 18


def export_onnx(classifier: Classifier, folder: Path) -> tuple[Path, float]:
    """Writes model.onnx: input `images` uint8 [batch, C, H, W], output `logits` float32 [batch, classes].

    The input is float32 if the network was trained on the floats of a user's data module.

    Returns the file and the largest difference from torch's logits over batches of 1 and 3 random images. Raises
    UserError if a package is missing, and RuntimeError if the logits differ by more than `LOGITS_TOLERANCE`.
    """
    need_onnx()
    file = folder / "model.onnx"
    generator = torch.Generator().manual_seed(0)
    shape = (3, *classifier.shape)
    if classifier.dtype == torch.uint8:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        images = torch.randn(shape, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            classifier,
            (images[:2],),
            file,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=ONNX_OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    return file, _difference(file, classifier, images)


def need_onnx() -> None:
    """Raises UserError if a package that writes or checks model.onnx is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"export: model.onnx was not written; {missing_package(missing[0], 'onnx')}")


def _difference(file: Path, classifier: Classifier, images: torch.Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (images[:1], images):
        with torch.inference_mode():
            ours = classifier(batch)
        (theirs,) = session.run(["logits"], {"images": batch.numpy()})
        difference = float((ours - torch.from_numpy(theirs)).abs().max())
        if not difference <= LOGITS_TOLERANCE * max(1.0, float(ours.abs().max())):
            raise RuntimeError(f"{file}: its logits differ from torch's by {difference:.2e}")
        largest = max(largest, difference)
    return largest


def export_safetensors(classifier: Classifier, folder: Path) -> Path:
    """Writes model.safetensors:

    weights, mean and std of the preprocessing; classes in its metadata. Returns the file.
    """
    file = folder / "model.safetensors"
    tensors = {key: value.contiguous() for key, value in classifier.state_dict().items()}
    metadata = {"format": "pt", "classes": json.dumps(classifier.classes), "input_size": str(classifier.input_size)}
    metadata["images"] = str(classifier.dtype).removeprefix("torch.")
    save_file(tensors, file, metadata=metadata)
    return file
