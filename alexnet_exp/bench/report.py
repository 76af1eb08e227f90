"""Formats a measurement for a terminal. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Found = Mapping[str, Any]
# Of the table of candidates: its columns, and the operators that are one direction of a layer.
CANDIDATES = ("torch", "packed", "native")
DIRECTIONS = {
    "convolution_forward": "forward",
    "convolution_input_gradient": "input gradient",
    "convolution_weight_gradient": "weight gradient",
    "images": "forward",
}


def lines(found: Found) -> Iterator[str]:
    """Yields the report: experiment and device, speed, and where the time goes; for several batch sizes a table."""
    yield from _heading(found)
    yield ""
    if "batches" in found:
        yield from _curve(found)
        return
    yield from _speed(found)
    if found["layers"]:
        yield ""
        yield from _layers(found)
    elif found["compile"]:
        yield "Layers are not measured because trainer.compile fuses them; use trainer.compile=false to measure them."
    if "candidates" in found:
        yield ""
        yield from _candidates(found)
    yield ""
    yield f"Bottleneck: {found['bound']}."


def _heading(found: Found) -> Iterator[str]:
    at = "" if "batches" in found else f", batch {found['images_per_step']}"
    yield f"model={found['model']} data={found['data']} optim={found['optim']}{at}: {found['parameters']:,} parameters"
    ranks = f"{found['ranks']} processes of " if found["ranks"] > 1 else ""
    compiled = f"; compiled, {found['compile']}" if found["compile"] else ""
    yield f"{ranks}{found['device']}; {found['why']}{compiled}"
    yield found["kernels"]
    if found["data_note"]:
        yield found["data_note"]
    if found["left_out"]:
        yield f"not measured, because they run between epochs or are your own: callbacks {', '.join(found['left_out'])}"


def _speed(found: Found) -> Iterator[str]:
    step, warm = found["step_ms"], found["warm_up"]
    spread = f"quartiles {step['q1']:.1f} to {step['q3']:.1f}, {found['steps']} steps"
    yield f"{'step':<22}{step['median']:>9.1f} ms  ({spread})"
    yield f"{'images/s':<22}{found['images_per_s']:>9,.0f}"
    for part in found["parts"]:
        yield f"  {part['name']:<20}{part['ms']:>9.1f} ms {part['share']:>6.1%}"
    what = "the first compiles" if found["compile"] else "the first"
    yield (
        f"{'warm-up':<22}{warm['seconds']:>9.1f} s   "
        f"({warm['steps']} steps, not counted above; {what}: {warm['first_step_seconds']:.1f} s)"
    )
    if found["gflops"]:
        each, whole = found["flop_per_image"] / 1e9, found["flop_per_step"] / 1e9
        yield f"{'FLOP':<22}{each:>9.3f} G an image, {whole:,.1f} G a step"
        yield f"{'achieved':<22}{found['gflops']:>9,.0f} GFLOP/s"
    if found["ceiling_gflops"]:
        how = f"fastest {found['dtype']} matrix product, measured now"
        yield f"{'peak':<22}{found['ceiling_gflops']:>9,.0f} GFLOP/s, {how}"
    if found["mfu"] is not None:
        yield f"{'MFU':<22}{found['mfu']:>9.1%}"
    whose = "of the process" if found["accelerator"] == "cpu" else "of the device"
    yield f"{'peak memory':<22}{found['peak_memory_bytes'] / 2**20:>9,.0f} MB, {whose}"


def _layers(found: Found) -> Iterator[str]:
    yield (
        f"{'layer':<24}{'kind':<14}{'forward ms':>11}{'backward ms':>13}{'share':>8}{'GFLOP':>9}{'GFLOP/s':>9}"
        + ("  kernels" if any(row["kernels"] for row in found["layers"]) else "")
    )
    for row in found["layers"]:
        line = (
            f"{row['name']:<24}{row['kind']:<14}{row['forward_ms']:>11.2f}{row['backward_ms']:>13.2f}"
            f"{row['share']:>8.1%}{_number(row['gflop'], '.2f'):>9}{_number(row['gflops'], ',.0f'):>9}"
        )
        yield f"{line}  {row['kernels']}".rstrip()
    yield f"{'in no layer':<24}{'':<14}{'ms':>24}{'share':>8}"
    for row in found["outside_layers"]:
        yield f"  {row['name']:<36}{row['ms']:>24.2f}{row['share']:>8.1%}"


def _candidates(found: Found) -> Iterator[str]:
    rows = found["candidates"]
    if not rows:
        yield "No operator of this network has another candidate here."
        return
    kinds = sorted({kind for row in rows for kind in row["ms"]}, key=CANDIDATES.index)
    yield f"{'candidates, ms':<24}{'direction':<22}" + "".join(f"{kind:>10} " for kind in kinds).rstrip()
    for row in rows:
        direction = DIRECTIONS.get(row["operator"], "forward and backward")
        times = [(row["ms"].get(kind), "*" if kind == row["chosen"] else " ") for kind in kinds]
        columns = "".join(f"{_number(time, '.2f'):>10}{mark}" for time, mark in times)
        yield f"{row['layer']:<24}{direction:<22}{columns}".rstrip()
    chosen = sum(row["ms"].get(row["chosen"], 0.0) for row in rows)
    fastest = sum(min(row["ms"].values()) for row in rows)
    yield f"* used by the run: {chosen:.2f} ms in all; the fastest of each: {fastest:.2f} ms"


def _curve(found: Found) -> Iterator[str]:
    most = max(each["images_per_s"] for each in found["batches"])
    yield f"{'batch':>7}{'images/s':>10}{'step ms':>10}{'quartiles':>18}{'MFU':>8}{'data wait':>11}{'memory MB':>11}"
    for each in found["batches"]:
        step, mfu = each["step_ms"], each["mfu"]
        bar = "#" * round(30 * each["images_per_s"] / most)
        yield (
            f"{each['batch_size']:>7}{each['images_per_s']:>10,.0f}{step['median']:>10.1f}"
            f"{step['q1']:>10.1f}{step['q3']:>8.1f}{_number(mfu, '.1%'):>8}{each['data_wait']:>11.1%}"
            f"{each['peak_memory_bytes'] / 2**20:>11,.0f}  {bar}"
        )
    if found["ceiling_gflops"]:
        peak = f"{found['ceiling_gflops']:,.0f} GFLOP/s"
        yield f"MFU: share of {peak}, the fastest {found['dtype']} matrix product, measured now"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
