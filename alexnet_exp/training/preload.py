"""Prepares a fork server for the jobs that it starts: importing this module imports and caches what they need.

A job starts as a copy of the server, so that what is imported, read or compiled here costs the jobs no time. Nothing
here may start a thread, which a copy would not have, use a GPU, or run a network: each job needs its own thread pools
and autograd engine of torch.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module

import alexnet_exp.training.train  # noqa: F401  (all of training)
from alexnet_exp.data.digits import load_pixels_and_labels
from alexnet_exp.kernels.native import native
from alexnet_exp.runs import provenance

# Modules that training imports lazily.
LAZY_MODULES = (
    *("torch.utils.serialization", "torch.utils.serialization.config"),
    *("torch.nn.parallel.distributed", "torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook"),
)


def _prepare() -> None:
    # The jobs run the code that was imported just now, even if the files change later.
    provenance.remember()
    for name in LAZY_MODULES:
        with suppress(ImportError):  # another version of the library does not have it, and so does not need it
            import_module(name)
    provenance.environment()
    load_pixels_and_labels()
    # Compiled and mapped, but not cached: the environment of a job may disable it.
    native.__wrapped__()
    # These objects live as long as the process: a job's garbage collector must not visit them and so copy their pages.
    gc.collect()
    gc.freeze()


with suppress(Exception):  # every job works without it, more slowly
    _prepare()
