"""Completes the network's settings from the data set. Does not import torch."""

from __future__ import annotations

from alexnet_exp.config.schema import COLUMNS, Config
from alexnet_exp.config.user_class import UserClass
from alexnet_exp.data.info import DATA_INFO_EXAMPLE, DataInfo, data_info
from alexnet_exp.errors import Problem, Refused
from alexnet_exp.model.columns_layout import layout
from alexnet_exp.model.completion import Ends, complete
from alexnet_exp.model.cost import layers
from alexnet_exp.model.spec import Input, Network

END_MEANINGS = {
    "num_classes": "how many classes there are",
    "in_channels": "how many channels its images have",
    "input_size": "how large its images are",
}


def data_info_of(config: Config) -> DataInfo | None:
    """Returns what is known of the data before it is built; None for a user's data module without `facts`."""
    return config.data.facts if isinstance(config.data, UserClass) else data_info(config.data)


def ends_of(config: Config) -> tuple[Ends, list[str]]:
    """Returns the sizes that the data requires of a network, and the class names. Unknown ones must be in the model.

    The input size of a user's network stays unknown (None) if nothing needs it before the images are loaded.
    """
    known = data_info_of(config)
    if known:
        return Ends(known.input_size, known.channels, len(known.classes), known.width), known.classes
    spec = config.model
    said = {key: spec.setting(key) if isinstance(spec, UserClass) else getattr(spec, key) for key in END_MEANINGS}
    missing = [words for key, words in END_MEANINGS.items() if said[key] is None and _is_needed(config, key)]
    if missing:
        instead = f"{config.data.target} does not say {' and '.join(missing)}; add a line to its YAML, of your numbers"
        raise Refused([Problem("data.facts", None, f"{instead}: {DATA_INFO_EXAMPLE}")])
    return Ends(**said, width=1.0), [str(index) for index in range(said["num_classes"])]


def _is_needed(config: Config, key: str) -> bool:
    """Returns whether this size must be known before the data is opened."""
    spec = config.model
    if key != "input_size" or not isinstance(spec, UserClass) or config.module is not None:
        return True
    per_pixel = getattr(spec.cls, "input", Input()).mean == "pixel"
    return per_pixel or spec.needs(key) or config.data.needs(key)


def resolve_network(config: Config) -> tuple[Network | UserClass, Ends, list[str]]:
    """Returns the complete settings of the network, the sizes of the data, and the class names.

    Raises Refused if network and data contradict each other, no pixels are left after a stage, or the network cannot be
    cut into the requested columns.
    """
    ends, classes = ends_of(config)
    if isinstance(config.model, UserClass):
        return config.model, ends, classes
    try:
        spec = complete(config.model, ends)
        layers(spec)
        if config.trainer.strategy == COLUMNS:
            layout(spec)
    except Refused as refused:
        raise Refused([problem.under("model") for problem in refused.problems]) from None
    return spec, ends, classes
