"""AlexNet, run, varied, swept and compared: experiments described in YAML, on PyTorch Lightning and Hydra."""

# Nothing is imported here: not torch, which a command may not need, and no other module either, since `__main__` is
# the first that can answer a Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from alexnet_exp.inference.classifier import load
    from alexnet_exp.runs.read_runs import read_runs

__version__ = "0.1.0"
__all__ = ["__version__", "load", "read_runs"]

_PLACES = {"load": "alexnet_exp.inference.classifier", "read_runs": "alexnet_exp.runs.read_runs"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
