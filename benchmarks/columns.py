"""The network of 2012 on two ranks against one, at full size: losses, gradients, parameters, bytes exchanged.

    python -m benchmarks.columns

20 steps of model=paper on random images, SGD with momentum, on the CPU over gloo. Writes results/columns.json and
prints the tables of docs/background/columns.md. Cost: 4 GB of memory; a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_exp.config.compose import compose
from alexnet_exp.config.resolve import resolve_network
from alexnet_exp.config.validate import validate
from alexnet_exp.model.columns import ColumnGroup, ColumnNetwork, gather_parameter
from alexnet_exp.model.columns_layout import crossings
from alexnet_exp.model.network import AlexNet
from alexnet_exp.model.spec import Network, Scale
from alexnet_exp.runs.status import Ending
from alexnet_exp.seeds import derive
from alexnet_exp.training.launch import run_ranks

RESULT = Path(__file__).parent / "results" / "columns.json"
KINDS = {"float64": torch.float64, "float32": torch.float32}


def main() -> None:
    """Runs one rank and two in each precision, compares, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paper")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    config = compose([f"model={given.model}", "data=random", "data.size=256"])
    work = {"config": config, "steps": given.steps, "batch": given.batch}
    result: dict[str, Any] = {"model": given.model, "steps": given.steps, "batch": given.batch}
    result["torch"] = torch.__version__
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, 2):
            ending = run_ranks(train, ranks, "gloo", work, Path(folder))
            if ending.status != "done":
                raise SystemExit(ending.reason)
        result |= {kind: compared(Path(folder), work, kind) for kind in KINDS}
        result["rounding"] = rounding(Path(folder))
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))


def train(container: Mapping[str, Any], folder: Path) -> Ending:
    """One rank's steps in each precision; what they came to goes into files, the parts of all ranks joined.

    Of `container`, `device` may be cuda, a GPU a rank, and `dies` the step at which rank 1 is killed.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cuda", rank) if container.get("device") == "cuda" else torch.device("cpu")
    spec = spec_of(container["config"])
    for kind, dtype in KINDS.items():
        torch.manual_seed(1)
        whole = AlexNet(spec).to(device, dtype)
        network = ColumnNetwork(whole, ColumnGroup(rank, ranks)) if ranks > 1 else whole
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        generator = torch.Generator().manual_seed(2)
        losses: list[Tensor] = []
        found: dict[str, Any] = {}
        for step in range(container["steps"]):
            if step == container.get("dies") and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            images, labels = images_of(spec, container["batch"], generator)
            torch.manual_seed(derive(1, "step", step))
            loss = F.cross_entropy(network(images.to(device, dtype)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.detach())
            if step == 0:
                found["gradients"] = gathered(network, ranks, rank, of=lambda parameter: parameter.grad)
            optimizer.step()
        found["parameters"] = gathered(network, ranks, rank, of=lambda parameter: parameter)
        found["losses"] = torch.stack(losses)
        found["sent"] = network.sent() if isinstance(network, ColumnNetwork) else {}
        torch.save(found, folder / f"{kind}-{ranks}-{rank}.pt")
    return Ending("done", 0)


def spec_of(config: Mapping[str, Any]) -> Network:
    """The network that a composed configuration describes."""
    spec = resolve_network(validate(config))[0]
    assert isinstance(spec, Network)
    return spec


def images_of(spec: Network, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random pixels, 0..255 minus their mean where the network takes bytes, and random labels."""
    size, channels, classes = int(spec.input_size or 0), int(spec.in_channels or 0), int(spec.num_classes or 0)
    pixels = torch.randint(0, 256, (batch, channels, size, size), generator=generator) - 127.5
    scaled = pixels if spec.input.scale == Scale.bytes else pixels / 74  # their deviation
    return scaled, torch.randint(0, classes, (batch,), generator=generator)


def gathered(network: torch.nn.Module, ranks: int, rank: int, of: Any) -> dict[str, Tensor]:
    """A tensor of each parameter, by the parameter's name, whole; kept by rank 0 alone."""
    link = ColumnGroup(rank, ranks)
    found = {}
    for name, parameter in network.named_parameters():
        tensor = gather_parameter(name, of(parameter), link) if ranks > 1 else of(parameter).detach().clone()
        if rank == 0:
            found[name] = tensor
    return found


def compared(folder: Path, work: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The largest differences of two ranks from one, and bytes an image by stage, predicted and counted."""
    files = (folder / f"{kind}-{name}.pt" for name in ("1-0", "2-0", "2-1"))
    one, two, other = (torch.load(file, map_location="cpu") for file in files)
    size, images = KINDS[kind].itemsize, work["steps"] * work["batch"]
    crossing = {
        each.stage: {
            "predicted": size * (each.forward + each.backward),
            "counted": sum(sum(rank["sent"][each.stage]) for rank in (two, other)) / images,
        }
        for each in crossings(spec_of(work["config"]))
    }
    apart = torch.stack([(rank["losses"] - one["losses"]).abs() for rank in (two, other)]).amax(0)
    by_name = {name: float((each - one["parameters"][name]).abs().max()) for name, each in two["parameters"].items()}
    return {
        "first_loss": float(one["losses"][0]),
        "last_loss": float(one["losses"][-1]),
        "losses": [float(each) for each in apart],
        "loss": float(apart.max()),
        "gradient": largest(two["gradients"], one["gradients"]),
        "gradient_size": largest(one["gradients"]),
        "parameter": max(by_name.values()),
        "parameters": by_name,
        "parameter_size": largest(one["parameters"]),
        "bytes_per_image": crossing,
    }


def rounding(folder: Path) -> dict[str, Any]:
    """How far one rank in float32 is from one rank in float64: what a difference in float32 is to be measured by."""
    wide, narrow = (torch.load(folder / f"{kind}-1-0.pt") for kind in KINDS)
    return {
        "losses": [float(each) for each in (narrow["losses"] - wide["losses"]).abs()],
        "gradient": largest(narrow["gradients"], wide["gradients"]),
        "parameter": largest(narrow["parameters"], wide["parameters"]),
    }


def largest(these: Mapping[str, Tensor], those: Mapping[str, Tensor] | None = None) -> float:
    """The largest absolute value, of the difference where there are two."""
    return max(float((each - those[name] if those else each).abs().max()) for name, each in these.items())


def markdown(result: Mapping[str, Any]) -> str:
    """Both tables, as Markdown."""
    head = " | ".join(f"two ranks, {kind}" for kind in KINDS)
    rows = [f"| largest difference from one rank | {head} | one rank's float32 from its float64 |", "|---|---|---|---|"]
    rounded = result["rounding"] | {"loss": max(result["rounding"]["losses"])}
    names = {
        "loss": f"loss, of {result['steps']} steps",
        "gradient": "gradient, first step",
        "parameter": f"parameter, after {result['steps']} steps",
    }
    for key, name in names.items():
        found = [*(result[kind][key] for kind in KINDS), rounded[key]]
        rows.append(f"| {name} | " + " | ".join(f"{each:.1e}" for each in found) + " |")
    rows += ["", "| before | predicted, bytes an image | counted |", "|---|---|---|"]
    crossing = result["float32"]["bytes_per_image"]
    rows += [f"| {stage} | {each['predicted']:,} | {each['counted']:,.0f} |" for stage, each in crossing.items()]
    total = [sum(each[key] for each in crossing.values()) for key in ("predicted", "counted")]
    return "\n".join([*rows, f"| an image | {total[0]:,} | {total[1]:,.0f} |"])


if __name__ == "__main__":
    main()
