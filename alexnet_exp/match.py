"""The network matched to the data: what its YAML leaves open comes from the data set. No torch here."""

from __future__ import annotations

from alexnet_exp.data.facts import Facts, facts
from alexnet_exp.extend import UserClass
from alexnet_exp.model.columns_count import layout
from alexnet_exp.model.count import layers
from alexnet_exp.model.spec import Ends, Network, complete
from alexnet_exp.schema import COLUMNS, Config
from alexnet_exp.settings import Problem, Refused


def facts_of(config: Config) -> Facts | None:
    """What is known of the data before it is built. A user's data module says it in a class attribute `facts`."""
    if not isinstance(config.data, UserClass):
        return facts(config.data)
    said = getattr(config.data.cls, "facts", None)
    return said if isinstance(said, Facts) else None


def ends_of(config: Config) -> tuple[Ends, list[str]]:
    """What the data asks of a network, and the names of its classes; where the data does not say, the model must."""
    known = facts_of(config)
    if known:
        return Ends(known.input_size, known.channels, len(known.classes), known.width), known.classes
    spec = config.model
    said = {
        key: spec.setting(key) if isinstance(spec, UserClass) else getattr(spec, key)
        for key in ("input_size", "in_channels", "num_classes")
    }
    instead = f"{config.data.target} does not say it; write a number, or give that class an attribute facts"
    unsaid = [Problem(f"model.{key}", None, instead) for key, value in said.items() if value is None]
    if unsaid:
        raise Refused(unsaid)
    return Ends(**said, width=1.0), [str(index) for index in range(said["num_classes"])]


def match(config: Config) -> tuple[Network | UserClass, Ends, list[str]]:
    """The network's settings with nothing left open, the data's ends, and the class names.

    Raises `Refused` where network and data contradict each other, nothing is left of the image in some stage, or the
    network cannot be cut into the columns that are asked for.
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
