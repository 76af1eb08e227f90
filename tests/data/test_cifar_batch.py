"""Malicious pickles in place of a CIFAR batch: each is rejected before numpy gets any of its content."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alexnet_exp.data.cifar import ARCHIVE_ERRORS, _batch
from alexnet_exp.data.cifar_batch import STAND_INS, PickledArray, read_batch
from tests.data.test_cifar import python2

reconstruct = np.empty(0).__reduce__()[0]
frombuffer = np.empty(1).__reduce_ex__(5)[0]
EMPTY = (np.ndarray, (0,), b"b")
PIXELS = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)


class Made:
    """Pickles to `function(*arguments)`, and then to the object's `__setstate__(state)`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def dtype_of(name: Any, *state: Any) -> Made:
    return Made(np.dtype, name, False, True, state=state or None)


def array_of(dtype: Any, content: Any, shape: Any = (1,), fortran: Any = False) -> Made:
    return Made(reconstruct, *EMPTY, state=(1, shape, dtype, fortran, content))


ADDRESSES = b"A" * 8  # eight bytes that are an invalid pointer
FIELDS = {"f": (dtype_of("u1"), 2**30)}
U1 = dtype_of("u1", 3, "|", None, None, None, -1, -1, 0)
REFUSED = {
    "pointers by ndarray": Made(np.ndarray, (1,), dtype_of("O8"), ADDRESSES),
    "an ndarray of bytes": Made(np.ndarray, (1,), U1, ADDRESSES, 2**40),
    "an empty ndarray": Made(np.ndarray, (1,)),
    "pointers by state": array_of(dtype_of("O8", 3, "|", None, None, None, -1, -1, 63), ADDRESSES),
    "a list of objects": array_of(dtype_of("O8"), [1]),
    "pointers by buffer": Made(frombuffer, ADDRESSES, dtype_of("O"), (1,), "C"),
    "an object by its name": array_of(dtype_of("object"), ADDRESSES),
    "raw memory": array_of(dtype_of("V8"), ADDRESSES),
    "a structure": array_of(dtype_of("u1,O"), ADDRESSES + b"A"),
    "a dtype of a list": dtype_of([("f", "O")]),
    "a dtype of a dict": dtype_of({"names": ["f"], "formats": ["O"], "offsets": [2**30]}),
    "a dtype of floats": array_of(dtype_of("f8"), ADDRESSES),
    "fields beyond the end": array_of(dtype_of("u1", 3, "|", None, ("f",), FIELDS, 8, 1, 0), b"A"),
    "a dtype with a shape": array_of(dtype_of("u1", 3, "|", (U1, (2**20,)), None, None, 2**20, 1, 0), b"A"),
    "an item of no bytes": array_of(dtype_of("u1", 3, "|", None, None, None, 0, 1, 0), b"A"),
    "flags of pointers": array_of(dtype_of("u1", 3, "|", None, None, None, -1, -1, 1), b"A"),
    "an unknown byte order": array_of(dtype_of("u2", 3, "!", None, None, None, -1, -1, 0), b"AA"),
    "a byte order of two": array_of(dtype_of("u2", 3, "<>", None, None, None, -1, -1, 0), b"AA"),
    "a short state": array_of(dtype_of("u1", 3, "|"), b"A"),
    "too few bytes": array_of(U1, b"AAA", (2**40,)),
    "too many bytes": array_of(U1, b"AAA", (2,)),
    "too few in a buffer": Made(frombuffer, b"A", U1, (2**62, 2**62), "C"),
    "less than none": array_of(U1, b"A", (-1, -1)),
    "sizes that are no numbers": array_of(U1, b"A", (True,)),
    "a shape that is no tuple": array_of(U1, b"A", [1]),
    "many dimensions": array_of(U1, b"A", (1,) * 40),
    "no dtype": array_of("u1", b"A"),
    "no bytes": array_of(U1, [65]),
    "another start": Made(reconstruct, np.ndarray, (2**40,), b"b"),
    "another class": Made(reconstruct, np.dtype, (0,), b"b"),
    "the class of an array": Made(reconstruct, U1, (0,), b"b"),
    "a changed function": (np.dtype, Made(np.dtype, "u1", state={"__call__": 1})),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_with_memory_addresses_are_rejected(name: str, protocol: int) -> None:
    batch = pickle.dumps({"data": REFUSED[name], "labels": [0]}, protocol=protocol)
    with pytest.raises(ARCHIVE_ERRORS) as error:
        _batch(io.BytesIO(batch), "labels", 10)
    assert type(error.value) in (pickle.UnpicklingError, TypeError)


@pytest.mark.parametrize("module_and_name", STAND_INS)
@pytest.mark.parametrize("key", ["__call__", "__class__", "__code__", "anything"])
def test_stand_ins_cannot_be_changed(module_and_name: tuple[str, str], key: str) -> None:
    """Without `__setstate__`, a pickle writes the state of an object to its attributes."""
    module, name = module_and_name
    attributes = pickle.dumps((None, {key: 1}), protocol=2)[2:-1]
    with pytest.raises((AttributeError, TypeError)):
        read_batch(io.BytesIO(f"c{module}\n{name}\n".encode() + attributes + b"b."))


def unframed(value: Any) -> bytes:
    """Returns a pickle of protocol 5 without its frame and end, so that opcodes can be appended."""
    return pickle.PROTO + bytes([5]) + pickle.dumps(value, protocol=5)[11:-1]


def test_write_into_an_array_of_addresses_is_rejected() -> None:
    """numpy would release an object at an address from the file."""
    array = unframed(Made(np.ndarray, (1,), np.dtype("O"), bytearray(ADDRESSES)))
    with pytest.raises(pickle.UnpicklingError, match="only integers are supported"):
        read_batch(io.BytesIO(array + b"K\x00K\x01s."))  # array[0] = 1


@pytest.mark.parametrize(
    "opcodes", [b"K\x00K\x01s.", b"K\x01a.", b"(K\x01e.", b"(K\x00K\x01u.", b"K\x01b.", b"N\x85R."]
)
def test_pickle_cannot_write_into_or_call_an_array(opcodes: bytes) -> None:
    """By item, append, extend, items, another state, and a call."""
    array = unframed(np.zeros(8, np.uint8))
    assert isinstance(read_batch(io.BytesIO(array + b".")), PickledArray)
    with pytest.raises((TypeError, AttributeError, pickle.UnpicklingError)):
        read_batch(io.BytesIO(array + opcodes))


def test_stand_ins_are_neither_numpy_objects_nor_classes() -> None:
    for stand_in in STAND_INS.values():
        assert not isinstance(stand_in, type)
        assert not type(stand_in).__module__.startswith("numpy")
        assert not hasattr(stand_in, "__dict__")


@pytest.mark.parametrize("dump", [python2, *(lambda x, p=p: pickle.dumps(x, protocol=p) for p in (3, 4, 5))])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<i4", ">i8"])
def test_integer_arrays_are_read_as_numpy_wrote_them(dump: Callable[[Any], bytes], order: Any, kind: str) -> None:
    array = np.arange(12).astype(kind).reshape(3, 4, order=order)
    read = read_batch(io.BytesIO(dump({"x": array})))["x"]
    assert isinstance(read, PickledArray)
    assert np.array_equal(read.array, array)
    assert read.array.dtype == array.dtype.newbyteorder("=")
    assert read.array.flags.writeable


@pytest.mark.parametrize("seed", range(20))
def test_mutated_batches_are_read_or_rejected(seed: int) -> None:
    """100 mutants of a batch each, with changes in opcodes and sizes, not in pixels."""
    drawn = random.Random(seed)
    dump = drawn.choice([python2, *(lambda x, p=p: pickle.dumps(x, protocol=p) for p in (3, 4, 5))])
    whole = dump({"data": PIXELS, "labels": [1, 2], "filenames": ["a", "b"]})
    pixels = whole.index(PIXELS.tobytes()[:64])
    outside = [*range(pixels), *range(pixels + PIXELS.nbytes, len(whole))]
    for _ in range(100):
        mutant = bytearray(whole)
        for at in drawn.sample(outside, drawn.randint(1, 4)):
            mutant[at] = drawn.choice([drawn.randrange(256), *b"cRbt(NO\x81\x85\x93"])
        try:
            found = _batch(io.BytesIO(bytes(mutant)), "labels", 10)
        except ARCHIVE_ERRORS:
            continue
        assert found.array.shape == (len(found.labels), 3, 32, 32)
        assert found.array.sum() >= 0
