"""What a fork server has ready for the jobs that come out of it; importing this module makes it so.

A job starts as a copy of the server, so whatever is imported, read or compiled here costs the jobs nothing. Nothing
here may start a thread, which a copy would not have, touch a GPU, or run a network: torch's thread pools and its
autograd engine are each job's own.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module

# The whole of training; scikit-learn has the digits.
import sklearn.datasets  # noqa: F401

import alexnet_exp.training.train  # noqa: F401
from alexnet_exp.data.digits import load_pixels_and_labels
from alexnet_exp.kernels.native import native
from alexnet_exp.runs import provenance

# What training imports when it first needs it, of the standard library and of others.
LATER = (
    *("importlib.readers", "importlib.resources.readers", "sklearn.datasets.data", "sklearn.datasets.descr"),
    *("torch.utils.serialization", "torch.utils.serialization.config"),
    *("torch.nn.parallel.distributed", "torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook"),
)


def _prepare() -> None:
    # the jobs run the code that was imported just now, whatever becomes of the files while they run
    provenance.remember()
    for name in LATER:
        with suppress(ImportError):  # another version has not got it: then nobody needs it
            import_module(name)
    provenance.environment()
    load_pixels_and_labels()
    # compiled and mapped, but not kept: a job may be told otherwise by its environment
    native.__wrapped__()
    # what is here stays: no job's collector need look through it, and so copy the pages that it lies in
    gc.collect()
    gc.freeze()


with suppress(Exception):  # without it every job works, more slowly
    _prepare()
