"""The network matched to the data: what its YAML leaves open comes from the data set. No torch here."""

from __future__ import annotations

from alexnet_exp.data.facts import facts
from alexnet_exp.extend import UserClass
from alexnet_exp.model.count import layers
from alexnet_exp.model.spec import Ends, Network, complete
from alexnet_exp.schema import Config
from alexnet_exp.settings import Problem, Refused


def ends_of(config: Config) -> tuple[Ends, list[str]]:
    """What the data asks of a network, and the names of its classes.

    A data module of the user's does not say before it is built, so that the model's settings must.
    """
    if not isinstance(config.data, UserClass):
        known = facts(config.data)
        return Ends(known.input_size, known.channels, len(known.classes), known.width), known.classes
    spec = config.model
    open_ends = [
        Problem(f"model.{key}", None, "a data module of your own does not say it; write a number")
        for key in ("input_size", "in_channels", "num_classes")
        if not isinstance(spec, UserClass) and getattr(spec, key) is None
    ]
    if open_ends:
        raise Refused(open_ends)
    said = spec.arguments if isinstance(spec, UserClass) else vars(spec)
    ends = Ends(said.get("input_size", 224), said.get("in_channels", 3), said.get("num_classes", 1000), 1.0)
    return ends, [str(index) for index in range(ends.num_classes)]


def match(config: Config) -> tuple[Network | UserClass, Ends, list[str]]:
    """The network's settings with nothing left open, the data's ends, and the class names.

    Raises `Refused` where network and data contradict each other, or nothing is left of the image in some stage.
    """
    ends, classes = ends_of(config)
    if isinstance(config.model, UserClass):
        return config.model, ends, classes
    try:
        spec = complete(config.model, ends)
        layers(spec)
    except Refused as refused:
        raise Refused([problem.under("model") for problem in refused.problems]) from None
    return spec, ends, classes
