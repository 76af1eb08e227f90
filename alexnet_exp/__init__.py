"""AlexNet, run, varied, swept and compared: experiments described in YAML, on PyTorch Lightning and Hydra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_exp.loading import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # imported when it is asked for: the package itself must not bring torch along
    if name == "load":
        from alexnet_exp.loading import load

        return load
    raise AttributeError(f"module {__name__} has no attribute {name}")
