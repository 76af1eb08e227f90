"""AlexNet, run, varied, swept and compared: experiments described in YAML, on PyTorch Lightning and Hydra."""

__version__ = "0.1.0"
