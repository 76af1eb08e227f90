"""`summary [overrides] [--json]`: prints the layers and the cost of a network without building it or importing torch.

A network class of the user's is built and run once instead, because only the class knows its layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_exp.cli.parser import with_overrides
from alexnet_exp.config.compose import compose
from alexnet_exp.config.resolve import ends_of
from alexnet_exp.config.schema import COLUMNS, Config
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import Refused, UserError
from alexnet_exp.model import columns_layout
from alexnet_exp.model.completion import Ends, complete
from alexnet_exp.model.cost import Layer, Totals, layers, totals
from alexnet_exp.model.memory import Memory, saved_bytes, training_memory
from alexnet_exp.model.spec import Network

# The figure printed in section 3 of the 2012 paper, and the exact count of its network.
PAPER = {
    "parameters": ("60 million", 60_965_224),
    "multiply_adds": ("not given", 724_406_816),
    "activations": ("650,000 neurons", 659_272),
}
OPTIMIZER_STATES = {
    "sgd": 1,
    "krizhevsky": 1,
    "adam": 2,
    "adamw": 2,
    "muon": 1,
}  # values that an optimizer stores per weight
CONNECTIONS_NOTE = 'The "630 million connections" that is sometimes quoted cannot be derived from the network\'s sizes.'


def run(arguments: list[str]) -> int:
    """Prints the layer table and the totals; returns the exit code."""
    parser = with_overrides(
        "summary", "Prints the layers, parameters and multiply-adds of a network and of the paper's."
    )
    parser.add_argument("--json", action="store_true", help="prints one JSON object")
    given = parser.parse_args(arguments)
    config = validate(compose(given.overrides, given.config_dir))
    if not isinstance(config.model, Network):
        print(_own(config, given.json))
        return 0
    spec, table = _completed(config, config.model)
    _refuse_other_data(config, spec, given.overrides)
    memory = training_memory(table, OPTIMIZER_STATES.get(config.optim.name, 2))
    batch = getattr(config.data, "batch_size", 1)
    if given.json:
        columns = _machine_columns(config, spec, batch) if config.trainer.strategy == COLUMNS else {}
        print(json.dumps(_machine(config, table, totals(table), memory, batch) | columns))
    else:
        name = _title(config, given.config_dir)
        print("\n".join(_lines(config, name, spec, table, totals(table), memory, batch)))
        if config.trainer.strategy == COLUMNS:
            print("\n".join(_column_lines(config, spec, batch)))
    return 0


def _completed(config: Config, spec: Network) -> tuple[Network, list[Layer]]:
    """Returns the network, with unset sizes taken from the data, and its layers."""
    pinned = {key: getattr(spec, key) for key in ("input_size", "in_channels", "num_classes", "width")}
    ends = vars(ends_of(config)[0]) if None in pinned.values() else {}
    try:
        whole = complete(spec, Ends(**ends | {key: value for key, value in pinned.items() if value is not None}))
        if config.trainer.strategy == COLUMNS:
            columns_layout.layout(whole)
        return whole, layers(whole)
    except Refused as refused:
        raise Refused([problem.under("model") for problem in refused.problems]) from None


def _refuse_other_data(config: Config, spec: Network, overrides: Sequence[str]) -> None:
    """Raises Refused, as a run does, if the network does not match data that were chosen on the command line.

    Without such a choice the default data have no effect. Data that are not on this machine are ignored.
    """
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    if not any(key in ("data", "experiment") or key.startswith("data.") for key in keys):
        return
    try:
        ends, _ = ends_of(config)
    except Refused:
        raise
    except UserError:  # the data are not on this machine
        return
    try:
        complete(spec, ends)
    except Refused as refused:
        raise Refused([problem.under("model") for problem in refused.problems]) from None


def _title(config: Config, config_dir: str | None) -> str:
    """Returns the network's option of the group `model`, and whether settings were changed."""
    name = config.model.name
    try:
        option = validate(compose([f"model={name}"], config_dir)).model
    except UserError:  # the user's file has another name
        return str(name)
    beside = (
        "width",
        "input_size",
        "in_channels",
        "num_classes",
        "weights",
    )  # printed elsewhere, or not part of the network
    changed = any(had != vars(option).get(key) for key, had in vars(config.model).items() if key not in beside)
    return f"{name}, changed" if changed else str(name)


def _own(config: Config, as_json: bool) -> str:
    """Returns the table of a user's network, or one JSON object."""
    from alexnet_exp.bench.module_table import module_table

    ends, classes = ends_of(config)
    table, failed = module_table(config.model, ends)
    counted, target = totals(table), config.model.target
    if as_json:
        numbers = {key: value for key, value in vars(counted).items() if key != "activations"}
        if failed:
            numbers["multiply_adds"] = None
        return json.dumps({"model": target, **numbers, "layers": [vars(layer) for layer in table]})
    size = "x".join(map(str, (ends.in_channels, *[ends.input_size or "?"] * 2)))
    lines = [f"model={target}, input {size}, {len(classes)} classes", "", *_rows(table), ""]
    lines += [f"{'parameters':<24}{counted.parameters:>16,}", f"{'trainable':<24}{counted.trainable_parameters:>16,}"]
    if failed:
        return "\n".join(
            [*lines, f"Outputs and multiply-adds are unknown because the network could not be run: {failed}"]
        )
    return "\n".join([*lines, f"{'multiply-adds':<24}{counted.multiply_adds:>16,}"])


def _machine(config: Config, table: list[Layer], counted: Totals, memory: Memory, batch: int) -> dict[str, Any]:
    return {
        "model": config.model.name,
        **vars(counted),
        "batch_size": batch,
        "training_bytes": memory.at(batch),
        "layers": [vars(layer) for layer in table],
    }


def _rows(table: list[Layer]) -> Iterator[str]:
    wide = max(14, *(len(layer.name) + 2 for layer in table))
    kinds = max(12, *(len(layer.kind) + 2 for layer in table))
    yield f"{'layer':<{wide}}{'kind':<{kinds}}{'output':>14}{'parameters':>14}{'multiply-adds':>16}{'memory/image':>14}"
    for layer in table:
        shape = "x".join(map(str, layer.shape))
        size = _bytes(4 * _product(layer.shape)) if layer.shape else ""
        yield (
            f"{layer.name:<{wide}}{layer.kind:<{kinds}}{shape:>14}"
            f"{_number(layer.parameters):>14}{_number(layer.multiply_adds):>16}{size:>14}"
        )


def _lines(
    config: Config, name: str, spec: Network, table: list[Layer], counted: Totals, memory: Memory, batch: int
) -> Iterator[str]:
    image = f"{spec.in_channels}x{spec.input_size}x{spec.input_size}"
    yield f"model={name}, input {image}, {spec.num_classes} classes, width {spec.width:g}"
    yield ""
    yield from _rows(table)
    yield ""
    yield f"{'':<24}{'this network':>16}{'the 2012 network':>18}   the paper prints"
    for key, (printed, paper) in PAPER.items():
        yield f"{key.replace('_', '-'):<24}{getattr(counted, key):>16,}{paper:>18,}   {printed}"
    if counted.parameters != counted.trainable_parameters:
        yield f"{'trainable':<24}{counted.trainable_parameters:>16,}"
    if config.model.name in ("paper", "code"):
        yield CONNECTIONS_NOTE
    yield (
        f"Training at data.batch_size={batch} with optim={config.optim.name} "
        f"keeps about {_bytes(memory.at(batch))} in float32: "
        f"{_bytes(memory.fixed)} of weights, gradients and optimizer state, {_bytes(memory.per_image)} an image."
    )


def _machine_columns(config: Config, spec: Network, batch: int) -> dict[str, Any]:
    own, size = columns_layout.rank_layers(spec), _number_bytes(config)
    return {
        "columns": {
            "ranks": spec.groups,
            "parameters": totals(own).parameters,
            "multiply_adds": totals(own).multiply_adds,
            "training_bytes": training_memory(own, OPTIMIZER_STATES.get(config.optim.name, 2)).at(batch),
            "layers": [vars(layer) for layer in own],
            "bytes_per_number": size,
            "crossings": [
                vars(crossing) | {"forward_bytes": size * crossing.forward, "backward_bytes": size * crossing.backward}
                for crossing in columns_layout.crossings(spec)
            ],
        }
    }


def _column_lines(config: Config, spec: Network, batch: int) -> Iterator[str]:
    """Yields what one rank holds per stage, and what the ranks exchange before each stage."""
    own, size = columns_layout.rank_layers(spec), _number_bytes(config)
    memory = training_memory(own, OPTIMIZER_STATES.get(config.optim.name, 2))
    kept = {layer.name: saved_bytes(layer, after) for layer, after in zip(own, [*own[1:], None], strict=True)}
    stages: dict[str, list[Layer]] = {}
    for layer in own:
        stages.setdefault(layer.name.partition(".")[0], []).append(layer)
    yield ""
    yield f"trainer.strategy={COLUMNS}: {spec.groups} ranks, each with one column of every layer, and all images."
    yield "What a rank holds, stage by stage; memory/image is what its backward pass keeps, float32."
    yield f"{'stage':<14}{'output':>14}{'parameters':>14}{'multiply-adds':>16}{'memory/image':>14}"
    for stage, rows in stages.items():
        shape = "x".join(map(str, rows[-1].shape))
        parameters, multiply_adds = totals(rows).parameters, totals(rows).multiply_adds
        held = sum(kept[row.name] for row in rows)
        yield f"{stage:<14}{shape:>14}{_number(parameters):>14}{_number(multiply_adds):>16}{_bytes(held):>14}"
    counted = totals(own)
    yield f"{'a rank':<14}{'':>14}{counted.parameters:>14,}{counted.multiply_adds:>16,}{_bytes(memory.per_image):>14}"
    about, fixed = _bytes(memory.at(batch)), _bytes(memory.fixed)
    yield f"At data.batch_size={batch} a rank keeps about {about}: {fixed} of weights, gradients and optimizer state."
    yield ""
    yield "What crosses for an image, both ways together: activations forward, their gradients backward."
    yield f"{'before':<14}{'activations':>14}{'forward':>14}{'backward':>16}{'bytes':>14}"
    crossings = columns_layout.crossings(spec)
    for crossing in crossings:
        shape = "x".join(map(str, crossing.shape))
        both = size * (crossing.forward + crossing.backward)
        yield (
            f"{crossing.stage:<14}{shape:>14}{_number(crossing.forward):>14}{_number(crossing.backward):>16}{both:>14,}"
        )
    forward, backward = (sum(getattr(each, way) for each in crossings) for way in ("forward", "backward"))
    yield f"{'an image':<14}{'':>14}{forward:>14,}{backward:>16,}{size * (forward + backward):>14,}"
    yield (
        f"Bytes are at {size} a number. The logits cross for the softmax, which is over all classes; "
        "nothing goes back, since every rank computes the same loss."
    )


def _number_bytes(config: Config) -> int:
    """Returns the bytes of an exchanged number. `precision: auto` counts as float32, without checking the machine."""
    precision = config.trainer.precision
    return 8 if precision.startswith("64") else 2 if "16" in precision else 4


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def _bytes(count: int) -> str:
    return (
        f"{count / 2**30:.2f} GB"
        if count >= 2**30
        else f"{count / 2**20:.1f} MB"
        if count >= 2**20
        else f"{count / 2**10:.1f} kB"
    )
