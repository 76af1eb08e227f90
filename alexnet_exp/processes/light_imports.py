"""Lets Lightning import the part of torchmetrics that it uses, instead of all of it.

`import torchmetrics` imports every metric, and with them torchvision.models, torch._dynamo, scipy.signal and
matplotlib: several seconds, of which Lightning uses the two base classes. While Lightning is imported, `torchmetrics`
is therefore a module that has only these. Afterwards it is removed again, so that a later `import torchmetrics` is
Python's ordinary import of the whole package, with the same base classes. Where the parts are not found, as in another
version, Lightning imports the whole package as usual.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any

PACKAGE, PLOTS = "torchmetrics", "torchmetrics.utilities.plot"  # the second one imports matplotlib
USERS = ("lightning_fabric", "pytorch_lightning")
# The first one first: the others import it, and it imports them.
PARTS = ("torchmetrics.utilities", "torchmetrics.metric", "torchmetrics.collections")
CLASSES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


class Deferred:
    """Stands for a name of a module that is imported when the name is called; as a type hint it accepts anything."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return getattr(import_module(self._module), self._name)(*arguments, **settings)


@contextmanager
def light_torchmetrics() -> Iterator[None]:
    """Provides a `torchmetrics` with the base classes alone inside the block, unless it is imported already."""
    if PACKAGE in sys.modules or not _provide():
        yield
        return
    try:
        yield
    finally:
        _remove(PACKAGE, PLOTS)
        utilities = sys.modules.get(PLOTS.rpartition(".")[0])
        if utilities is not None:
            vars(utilities).pop("plot", None)


def _provide() -> bool:
    """Imports the parts; returns whether that was possible. Where it was not, nothing of the package is left."""
    spec = _spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        return False
    package, plots = ModuleType(PACKAGE), ModuleType(PLOTS)
    package.__path__ = spec.submodule_search_locations
    package.__spec__ = spec
    plots.__getattr__ = _deferred_plot  # type: ignore[method-assign]
    try:
        vars(package).update(__version__=version(PACKAGE), _logger=logging.getLogger(PACKAGE))
        sys.modules.update({PACKAGE: package, PLOTS: plots})
        for name in PARTS:
            import_module(name)
        for name, module in CLASSES.items():
            setattr(package, name, getattr(sys.modules[module], name))
    except Exception:  # whatever another version does: it is imported as usual
        _remove(*(name for name in sys.modules if name.partition(".")[0] == PACKAGE))
        return False
    return True


def _deferred_plot(name: str) -> Deferred:
    if name.startswith("__"):
        raise AttributeError(name)
    return Deferred(PLOTS, name)


def _remove(*names: str) -> None:
    for name in names:
        sys.modules.pop(name, None)


def _spec(name: str, path: Sequence[str] | None = None) -> ModuleSpec | None:
    """Returns the module's spec by the other finders."""
    others = (finder for finder in sys.meta_path if finder is not FINDER and hasattr(finder, "find_spec"))
    return next((spec for finder in others if (spec := finder.find_spec(name, path)) is not None), None)


class _Wrapped(Loader):
    """Runs a module's own loader, with something before it."""

    def __init__(self, spec: ModuleSpec):
        assert spec.loader is not None
        self.spec, self.loader = spec, spec.loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.spec.loader = module.__loader__ = self.loader
        if module.__name__ in USERS:
            with light_torchmetrics():
                self.loader.exec_module(module)
            return
        # Python makes a submodule an attribute of its package when it imports it: these are imported already
        for name, part in list(sys.modules.items()):
            package, _, rest = name.partition(".")
            if package == PACKAGE and rest and "." not in rest:
                setattr(module, rest, part)
        self.loader.exec_module(module)


class _Finder(MetaPathFinder):
    """Finds Lightning, and torchmetrics once Lightning has imported a part of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE and fullname not in USERS:
            return None
        spec = _spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Wrapped(spec)
        return spec


FINDER = _Finder()


def install() -> None:
    """Makes a later import of Lightning light; does nothing if it is imported already."""
    if FINDER not in sys.meta_path and not set(USERS) <= sys.modules.keys():
        sys.meta_path.insert(0, FINDER)
