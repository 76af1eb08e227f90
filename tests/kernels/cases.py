"""Calls of every C function with the results that they should have, computed by numpy in float64 or exactly.

Odd shapes, no images, windows over the edges, NaN and infinities; sizes of more than one block and of less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kernels.driver import Argument, Call, Inside, Outputs, Values

Floats = NDArray[np.float64]
BFLOAT16 = 2.0**-8  # the greatest relative error of a value that is rounded once
NONE = 255  # of `taken` in batch_norm.c


def all_calls(tiles: bool = False) -> list[Call]:
    """Returns the calls, small ones first; `tiles`: also convolutions that need AMX."""
    makers = (crops, standardizations, resizes, windows, window_sums, lrns, dropouts, norms)
    return [*(call for maker in makers for call in maker()), *convolutions(tiles)]


# --- values


def drawn(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def bfloat16(values: Values) -> Values:
    """Returns the nearest bfloat16, ties to even, as uint16."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def exact(values: Values) -> Floats:
    """Returns float32, or bfloat16 in uint16, in float64."""
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def in_precision(values: Values, half: bool) -> Values:
    return bfloat16(values) if half else values


def with_specials(values: Values) -> Values:
    """Returns a copy with a NaN and both infinities in it."""
    changed = values.copy()
    flat = changed.reshape(-1)
    for value, place in ((np.nan, 0.2), (np.inf, 0.5), (-np.inf, 0.8)):
        flat[int(place * flat.size)] = value
    return changed


def blank(shape: tuple[int, ...], dtype: Any) -> Values:
    """Returns memory for a result, filled with a pattern: a value that is not written is found (NaN in floats)."""
    return np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype).reshape(shape)


def floats_dtype(half: bool) -> Any:
    return np.uint16 if half else np.float32


def assert_near(found: Values, wanted: Floats, relative: float, of_largest: float = 1e-6) -> None:
    """Finite values differ by `relative` of each and `of_largest` of the largest; the same values are not finite."""
    values, finite = exact(found), np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(values), finite)
    if finite.any():
        allowed = of_largest * np.abs(wanted[finite]).max()
        np.testing.assert_allclose(values[finite], wanted[finite], relative, allowed)


def outputs_near(*wanted: Floats | None, half: bool = False, succeeds: bool = True) -> Callable[[int, Outputs], None]:
    """Returns a check of the last arrays of a call, one for each of `wanted`; None: not checked."""

    def check(result: int, outputs: Outputs) -> None:
        assert result == 0 or not succeeds
        for found, each in zip(outputs[-len(wanted) :], wanted, strict=True):
            if each is not None:
                assert_near(found, each, BFLOAT16 if found.dtype == np.uint16 else 2e-5, 1e-5)

    return check


# --- images.c and resize.c


def crops() -> Iterator[Call]:
    for count, channels, height, width, pad, side in [
        *((0, 3, 8, 8, 4, 8), (1, 1, 1, 1, 0, 1), (3, 3, 7, 5, 0, 4), (5, 3, 9, 11, 4, 9)),
        *((2, 1, 3, 3, 9, 7), (95, 3, 33, 31, 3, 31)),
    ]:
        images = np.random.default_rng(count).integers(0, 256, (count, channels, height, width), np.uint8)
        random = np.random.default_rng(1)
        top = random.integers(0, height + 2 * pad - side + 1, count)
        left = random.integers(0, width + 2 * pad - side + 1, count)
        padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        for mirrored in (None, random.integers(0, 2, count).astype(np.uint8)):
            wanted = [
                padded[i, :, y : y + side, x : x + side][..., :: -1 if mirrored is not None and mirrored[i] else 1]
                for i, (y, x) in enumerate(zip(top, left, strict=True))
            ]
            out = blank((count, channels, side, side), np.uint8)
            sizes = count, channels, height, width, pad, side
            yield Call("crop_squares", [images, out, *sizes, top, left, mirrored], _squares_equal(wanted))


def _squares_equal(wanted: list[Values]) -> Callable[[int, Outputs], None]:
    def check(_: int, outputs: Outputs) -> None:
        for found, each in zip(outputs[1], wanted, strict=True):
            np.testing.assert_array_equal(found, each)

    return check


def standardizations() -> Iterator[Call]:
    shapes = [(0, 3, 4), (1, 1, 1), (3, 3, 35), (2, 5, 18), (95, 3, 1024)]
    for (count, channels, pixels), half, last in product(shapes, (False, True), (False, True)):
        images = np.random.default_rng(2).integers(0, 256, (count, channels, pixels), np.uint8)
        for by_mean, by_std in ((1, 1), (pixels, 1), (pixels, pixels)):
            mean, std = 100 + drawn(channels, by_mean), 50 + drawn(channels, by_std, seed=1)
            wanted = (images - exact(mean)) / exact(std)
            out = blank((count, pixels, channels) if last else images.shape, floats_dtype(half))
            given = [images, out, count, channels, pixels, mean, std, by_mean, by_std, int(half), int(last)]
            yield Call("standardize", given, _standardized(wanted.swapaxes(1, 2) if last else wanted))


def _standardized(wanted: Floats) -> Callable[[int, Outputs], None]:
    return lambda _, outputs: assert_near(outputs[1], wanted, BFLOAT16 if outputs[1].dtype == np.uint16 else 1e-6)


def resizes() -> Iterator[Call]:
    for height, width, channels, tall, wide, top, left, size, applies in [
        *(
            (33, 47, 3, 40, 57, 3, 9, 32, True),
            (20, 20, 1, 17, 18, 1, 2, 16, True),
            (64, 90, 3, 32, 45, 0, 13, 32, True),
        ),
        *(
            (1, 1, 3, 16, 16, 0, 0, 16, True),
            (9, 9, 3, 33, 40, 17, 24, 16, True),
            (300, 200, 3, 256, 171, 32, 0, 160, True),
        ),
        *(
            (20, 20, 3, 18, 18, 0, 0, 15, False),
            (20, 20, 3, 18, 18, 3, 0, 16, False),
            (0, 0, 3, 16, 16, 0, 0, 16, False),
        ),
        (20, 20, 3, 20, 18, 0, 0, 16, False),
    ]:
        image = np.random.default_rng(3).integers(0, 256, (height, width, channels), np.uint8)
        out = blank((channels, size, size), np.uint8)
        wanted = _resized(image, tall, wide)[top : top + size, left : left + size] if applies else None
        sizes = height, width, channels, tall, wide, top, left, size
        yield Call("resize_square", [image, *sizes, out], _square_resized(wanted))


def _resized(image: Values, tall: int, wide: int) -> Floats:
    """Returns the image resized, bilinear and antialiased: triangles as wide as a pixel of the smaller image."""
    return np.einsum(
        "yh,xw,hwc->yxc", _triangles(len(image), tall), _triangles(image.shape[1], wide), image, optimize=True
    )


def _triangles(size: int, to: int) -> Floats:
    scale = size / to
    centers = (np.arange(to) + 0.5) * scale
    apart = np.abs(np.arange(size) + 0.5 - centers[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - apart)
    normed: Floats = weights / weights.sum(1, keepdims=True)
    return normed


def _square_resized(wanted: Floats | None) -> Callable[[int, Outputs], None]:
    """Checks the bytes; without wanted ones, or on a processor without the instructions, that nothing was written."""

    def check(result: int, outputs: Outputs) -> None:
        assert result in (0, 1)
        if result == 0:
            assert (outputs[-1] == 0xFF).all()
        else:
            assert wanted is not None
            assert np.abs(outputs[-1].transpose(1, 2, 0) - wanted).max() <= 1.1

    return check


# --- lrn.c


def lrns() -> Iterator[Call]:
    shapes = [
        *((0, 5, 7, 2), (1, 1, 1, 2), (3, 7, 5, 2), (2, 96, 1, 2), (9, 5, 1, 7), (1, 600, 1, 2)),
        *((1, 6, 1030, 3), (2, 16, 1100, 2), (400, 96, 1, 2)),
    ]
    for (outer, maps, inner, reach), half, beta, gradient, special in product(
        shapes, (False, True), (0.75, 0.5), (False, True), (False, True)
    ):
        a, g = 30 * drawn(outer, maps, inner), drawn(outer, maps, inner, seed=1)
        if special and a.size < 8:
            continue
        a, g = (in_precision(each, half) for each in (with_specials(a) if special else a, g))
        wanted = _lrn(exact(a), exact(g) if gradient else None, reach, beta)
        given = [a, g if gradient else None, blank(a.shape, a.dtype), outer, maps, inner, reach, 1e-3, beta, 2.0]
        yield Call("lrn", [*given, int(half)], outputs_near(wanted))


def _lrn(a: Floats, g: Floats | None, reach: int, beta: float) -> Floats:
    with np.errstate(invalid="ignore"):
        d = 2.0 + 1e-3 * _sum_around(a * a, reach)
        if g is None:
            return a * d**-beta
        return g * d**-beta - 2e-3 * beta * a * _sum_around(g * a * d**-beta / d, reach)


def _sum_around(values: Floats, reach: int) -> Floats:
    maps = values.shape[1]
    with np.errstate(invalid="ignore"):
        around = [values[:, max(0, i - reach) : i + reach + 1].sum(1) for i in range(maps)]
    return np.stack(around, 1)


# --- dropout.c


def dropouts() -> Iterator[Call]:
    for count, drop in product((0, 1, 17, 1000, 40001), (0, 2**31, 2**32 - 1)):
        x = bfloat16(with_specials(drawn(count)) if count > 8 else drawn(count))
        seed = np.array([12345, 2**32 - 7], np.uint32)
        units = _mixed(_mixed(np.arange(count, dtype=np.uint32) ^ seed[0]) + seed[1])
        values = exact(x)
        passed = np.where(values <= 0, 0, values)
        with np.errstate(invalid="ignore"):
            wanted = passed * np.where(units < drop, 0, 1.25)
        y = blank((count,), np.uint16)
        yield Call("relu_dropout", [x, count, drop, 1.25, seed, y], outputs_near(wanted))
        g = bfloat16(drawn(count, seed=2))
        gradient = np.where(values <= 0, 0, exact(g) * 1.25)
        yield Call("relu_dropout_backward", [x, g, count, 1.25, y], outputs_near(gradient))


def _mixed(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    bits = (bits ^ bits >> 16) * np.uint32(0x85EBCA6B)
    bits = (bits ^ bits >> 13) * np.uint32(0xC2B2AE35)
    return bits ^ bits >> 16


# --- batch_norm.c


def norms() -> Iterator[Call]:
    shapes = [(0, 4, 4, 16), (1, 1, 1, 1), (2, 5, 7, 3), (3, 6, 5, 16), (2, 9, 8, 37), (3, 8, 8, 100), (5, 16, 15, 130)]
    pools = [(1, 1, False), (2, 2, False), (3, 2, False), (3, 2, True), (3, 1, False), (2, 3, False)]
    for shape, half, special in product(shapes, (False, True), (False, True)):
        n, height, width, channels = shape
        random = np.random.default_rng(4)
        gain = (random.uniform(0.5, 1.5, channels) * random.choice([-1, 1], channels)).astype(np.float32)
        bias, mean = drawn(channels, seed=1), drawn(channels, seed=2)
        x = exact(in_precision(3 * drawn(*shape), half))
        x = np.where(np.abs(x * gain + bias) < 0.05, 0.5 + np.round(x), x).astype(np.float32)  # not at ReLU's corner
        x = np.where(np.abs(x * gain + bias) < 0.05, x + 0.5, x).astype(np.float32)
        if special and x.size < 500:
            continue
        x = in_precision(with_specials(x) if special else x, half)
        yield _statistics(x, half)
        for kernel, stride, ceil in pools:
            rows, columns = ((side - kernel + (stride - 1) * ceil) // stride + 1 for side in (height, width))
            if kernel > min(height, width):
                continue
            sizes = np.array([n, height, width, channels, kernel, stride, rows, columns])
            yield from _norm_calls(x, half, sizes, gain, bias, mean)


def _statistics(x: Values, half: bool) -> Call:
    rows, channels = x.size // x.shape[-1], x.shape[-1]
    values = exact(x).reshape(rows, channels)
    with np.errstate(invalid="ignore"):
        mean = values.mean(0) if rows else np.zeros(channels)
        variance = values.var(0) if rows else np.zeros(channels)
    outputs = blank((channels,), np.float32), blank((channels,), np.float32)
    return Call("batch_norm_statistics", [x, int(half), rows, channels, *outputs], outputs_near(mean, variance))


def _norm_calls(x: Values, half: bool, sizes: Values, gain: Values, bias: Values, mean: Values) -> Iterator[Call]:
    n, _, _, channels, kernel, _, rows, columns = map(int, sizes)
    values, pooled = exact(x), (n, rows, columns, channels)
    y, taken = _normed(values, sizes, exact(gain), exact(bias))
    given: list[Argument] = [x, int(half), sizes, gain, bias]
    yield Call(
        "batch_norm_forward", [*given, blank(pooled, x.dtype), None, None], _forward_near(y, None, sizes, values)
    )
    if kernel > 1:
        outputs = blank(pooled, x.dtype), blank(pooled, np.uint8), blank(pooled, x.dtype)
        yield Call("batch_norm_forward", [*given, *outputs], _forward_near(y, taken, sizes, values))

    g = in_precision(drawn(*pooled, seed=3), half)
    source = x if kernel == 1 else _at_places(x, taken, sizes)
    passed = np.where(exact(source) * gain.astype(np.float64) + bias <= 0, 0, exact(g))
    with np.errstate(invalid="ignore"):
        products = passed * (exact(source) - mean)
        sums = np.stack([passed.sum((0, 1, 2)), products.sum((0, 1, 2))])
    shared = [source, g, int(half), n * rows * columns, channels, gain, bias, mean, blank((2, channels), np.float32)]
    yield Call("batch_norm_sums", shared, outputs_near(sums))

    scale, slope, offset = (drawn(channels, seed=seed) for seed in (5, 6, 7))
    gradient = _spread(passed, taken, sizes) if kernel > 1 else passed
    with np.errstate(invalid="ignore"):
        dx = gradient * scale + values * slope + offset
    places = None if kernel == 1 else taken.astype(np.uint8)
    factors = [gain, bias, scale, slope, offset, blank(x.shape, x.dtype)]
    yield Call("batch_norm_backward", [x, g, places, int(half), sizes, *factors], outputs_near(dx))


def _windows_of(sizes: Values) -> Iterator[tuple[int, int, slice, slice]]:
    """Yields the row and column of each pixel of the pooled maps, and the rows and columns of its window."""
    _, height, width, _, kernel, stride, rows, columns = map(int, sizes)
    for row, column in product(range(rows), range(columns)):
        top, left = row * stride, column * stride
        yield row, column, slice(top, min(top + kernel, height)), slice(left, min(left + kernel, width))


def _normed(x: Floats, sizes: Values, gain: Floats, bias: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Returns the pooled maps, and the place in the window of each value, or NONE where ReLU stops it."""
    n, _, _, channels, kernel, _, rows, columns = map(int, sizes)
    y, taken = np.zeros((n, rows, columns, channels)), np.zeros((n, rows, columns, channels), np.int64)
    with np.errstate(invalid="ignore"):
        values = x * gain + bias
    for row, column, down, right in _windows_of(sizes):
        window = values[:, down, right]
        wide = window.shape[2]
        flat = window.reshape(n, window.shape[1] * wide, channels)
        place = np.where(np.isnan(flat).any(1), np.isnan(flat)[:, ::-1].argmax(1), 0)
        place = np.where(np.isnan(flat).any(1), flat.shape[1] - 1 - place, np.nan_to_num(flat, nan=-np.inf).argmax(1))
        best = np.take_along_axis(flat, place[:, None], 1)[:, 0]
        y[:, row, column] = np.where(best <= 0, 0, best)
        taken[:, row, column] = np.where(best <= 0, NONE, place // wide * kernel + place % wide)
    return y, taken


def _at_places(x: Values, taken: NDArray[np.int64], sizes: Values) -> Values:
    """Returns the value of x at the place that was taken; where there is none, one that ReLU stops, or any."""
    n, _, _, channels, kernel, *_ = map(int, sizes)
    found = np.zeros(taken.shape, x.dtype)
    for row, column, down, right in _windows_of(sizes):
        window = x[:, down, right]
        place = np.where(taken[:, row, column] == NONE, 0, taken[:, row, column])
        flat = window.reshape(n, window.shape[1] * window.shape[2], channels)
        index = place // kernel * window.shape[2] + place % kernel
        found[:, row, column] = np.take_along_axis(flat, index[:, None], 1)[:, 0]
    return found


def _spread(g: Floats, taken: NDArray[np.int64], sizes: Values) -> Floats:
    """Returns the gradient before the pool: each value of g added at its place."""
    n, height, width, channels, kernel, *_ = map(int, sizes)
    gradient = np.zeros((n, height, width, channels))
    for row, column, down, right in _windows_of(sizes):
        for i, j in product(range(down.stop - down.start), range(right.stop - right.start)):
            here = taken[:, row, column] == i * kernel + j
            gradient[:, down.start + i, right.start + j] += np.where(here, g[:, row, column], 0)
    return gradient


def _forward_near(
    y: Floats, taken: NDArray[np.int64] | None, sizes: Values, x: Floats
) -> Callable[[int, Outputs], None]:
    def check(_: int, outputs: Outputs) -> None:
        if taken is None:
            assert_near(outputs[-1], y, BFLOAT16 if outputs[-1].dtype == np.uint16 else 2e-5, 1e-5)
            return
        found, places, source = outputs[-3:]
        assert_near(found, y, BFLOAT16 if found.dtype == np.uint16 else 2e-5, 1e-5)
        # Float32 may make two values equal, of which the first is taken: `source` is what is at the place.
        np.testing.assert_array_equal(places == NONE, taken == NONE)
        at_places = _at_places(x, places.astype(np.int64), sizes)
        np.testing.assert_array_equal(np.where(taken == NONE, 0, exact(source)), np.where(taken == NONE, 0, at_places))

    return check


# --- windows.c


CONVOLUTIONS = [  # n, height, width, maps in, maps out, kernel, pad, stride, groups
    *(
        (1, 1, 1, 1, 1, 1, 0, 1, 1),
        (2, 5, 4, 1, 1, 3, 1, 1, 1),
        (3, 1, 2, 5, 7, 3, 4, 1, 1),
        (2, 7, 7, 6, 9, 2, 1, 3, 1),
    ),
    *(
        (3, 5, 6, 8, 12, 3, 1, 1, 2),
        (2, 9, 9, 6, 12, 5, 2, 2, 6),
        (2, 11, 9, 3, 4, 11, 2, 4, 1),
        (1, 4, 4, 70, 2, 3, 1, 1, 1),
    ),
]


def _sides(height: int, width: int, kernel: int, pad: int, stride: int) -> tuple[int, int]:
    return (height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1


def windows() -> Iterator[Call]:
    for (n, height, width, maps, out, kernel, pad, stride, groups), half in product(CONVOLUTIONS, (False, True)):
        rows, columns = _sides(height, width, kernel, pad, stride)
        sizes = np.array([n, height, width, maps, rows, columns, out, kernel, pad, stride, groups])
        x = in_precision(with_specials(drawn(n, height, width, maps)), half)
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        part = maps // groups
        for group, (first, count) in product(range(groups), ((0, n * rows), (n * rows // 2, 1), (0, 0))):
            shape = count, columns, kernel, kernel, part
            wanted = np.zeros(shape, x.dtype)
            for each, column in product(range(count), range(columns)):
                image, row = divmod(first + each, rows)
                top, left = row * stride, column * stride
                window = padded[image, top : top + kernel, left : left + kernel]
                wanted[each, column] = window[..., group * part : (group + 1) * part]
            given = [Inside(x, group * part), sizes, first, count, x.itemsize, blank(shape, x.dtype)]
            yield Call("convolution_windows", given, _equal_bits(wanted))


def _equal_bits(wanted: Values) -> Callable[[int, Outputs], None]:
    def check(_: int, outputs: Outputs) -> None:
        assert outputs[-1].tobytes() == wanted.tobytes()

    return check


def window_sums() -> Iterator[Call]:
    for (n, height, width, maps, out, kernel, pad, stride, groups), half in product(CONVOLUTIONS, (False, True)):
        rows, columns = _sides(height, width, kernel, pad, stride)
        sizes = np.array([n, height, width, maps, rows, columns, out, kernel, pad, stride, groups])
        part = maps // groups
        values = drawn(n, rows, columns, kernel, kernel, part)
        given = in_precision(with_specials(values) if values.size > 100 else values, half)
        total = np.zeros((n, height + 2 * pad, width + 2 * pad, part))
        with np.errstate(invalid="ignore"):
            for i, j in product(range(kernel), range(kernel)):
                down, right = (slice(at, at + stride * size, stride) for at, size in ((i, rows), (j, columns)))
                total[:, down, right][:, :rows, :columns] += exact(given)[:, :, :, i, j]
        sums = total[:, pad : pad + height, pad : pad + width]
        for group in range(groups):
            before = in_precision(np.full((n, height, width, maps), 3, np.float32), half)
            wanted = exact(before).copy()
            wanted[..., group * part : (group + 1) * part] = sums
            arguments = [given, sizes, before.itemsize, Inside(before, group * part)]
            yield Call("convolution_windows_sum", arguments, outputs_near(wanted))


# --- convolution.c


def convolutions(tiles: bool = False) -> Iterator[Call]:
    """Also calls for processors without the instructions, where the functions return 1 and write nothing."""
    for n, height, width, maps, out, kernel, pad in [
        *((1, 1, 1, 64, 64, 3, 1), (7, 5, 5, 64, 128, 3, 1), (3, 4, 6, 96, 64, 3, 0), (1, 4, 7, 48, 96, 5, 2)),
        *((6, 3, 3, 192, 48, 1, 0), (13, 2, 3, 128, 144, 3, 2), (35, 3, 2, 64, 96, 3, 1), (17, 2, 2, 48, 144, 2, 1)),
        *((5, 20, 20, 64, 64, 3, 0), (33, 15, 15, 64, 64, 3, 1)),
        *(((17, 3, 4, 32, 160, 3, 1),) if tiles else ()),
    ]:
        yield Call("convolution_takes", [maps, out], _is_flag)
        rows, columns = _sides(height, width, kernel, pad, 1)
        sizes = np.array([n, height, width, maps, rows, columns, out, kernel, pad, 1, 1])
        weights, bias = drawn(out, kernel, kernel, maps, seed=1), drawn(out, seed=2)
        rounded = exact(bfloat16(weights))
        for special in (False, True):
            x, g = drawn(n, height, width, maps, seed=3), drawn(n, rows, columns, out, seed=4)
            if special:
                x.reshape(-1)[x.size // 2], g.reshape(-1)[g.size // 2] = np.inf, np.nan
            x, g = bfloat16(x), bfloat16(g)
            y, dx, dw = _convolved(exact(x), exact(g), rounded, pad)
            for relu, each in ((0, bias), (1, bias), (1, None)):
                wanted = y if each is None else y + each
                wanted = np.where(wanted <= 0, 0, wanted) if relu else wanted
                given: list[Argument] = [x, weights, each, sizes, relu, blank(y.shape, np.uint16)]
                yield Call("convolution_forward", given, _unless_lacking(wanted))
            arguments = [g, weights, sizes, blank(x.shape, np.uint16)]
            yield Call("convolution_input_gradient", arguments, _unless_lacking(dx))
            results = blank(weights.shape, np.float32), blank((out,), np.float32)
            yield Call(
                "convolution_weight_gradient", [x, g, sizes, *results], _unless_lacking(dw, exact(g).sum((0, 1, 2)))
            )
            yield Call("convolution_weight_gradient", [x, g, sizes, results[0], None], _unless_lacking(dw))


def _is_flag(result: int, _: Outputs) -> None:
    assert result in (0, 1)


def _convolved(x: Floats, g: Floats, weights: Floats, pad: int) -> tuple[Floats, Floats, Floats]:
    """Returns the convolution of stride 1, the gradient of x and that of the weights; g is that of the convolution."""
    height, width = x.shape[1:3]
    rows, columns = g.shape[1:3]
    y, dx, dw = np.zeros(g.shape), np.zeros(x.shape), np.zeros(weights.shape)
    for i, j in product(range(weights.shape[1]), range(weights.shape[2])):
        down, right = (
            slice(max(0, pad - at), min(to, size + pad - at))
            for at, to, size in ((i, rows, height), (j, columns, width))
        )
        if down.stop <= down.start or right.stop <= right.start:
            continue
        across = (
            slice(None),
            slice(down.start + i - pad, down.stop + i - pad),
            slice(right.start + j - pad, right.stop + j - pad),
        )
        with np.errstate(invalid="ignore"):
            y[:, down, right] += x[across] @ weights[:, i, j].T
            dx[across] += g[:, down, right] @ weights[:, i, j]
            dw[:, i, j] += np.tensordot(g[:, down, right], x[across], ((0, 1, 2), (0, 1, 2)))
    return y, dx, dw


def _unless_lacking(*wanted: Floats) -> Callable[[int, Outputs], None]:
    def check(result: int, outputs: Outputs) -> None:
        if result == 1:  # no instructions: nothing is written
            assert all((found.view(np.uint8) == 0xFF).all() for found in outputs[-len(wanted) :])
        else:
            outputs_near(*wanted)(result, outputs)

    return check
