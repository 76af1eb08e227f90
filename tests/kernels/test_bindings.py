"""Every function that a .c file exports is bound once, with the argument types of its C declaration."""

from __future__ import annotations

import re
from ctypes import c_float, c_int, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import pytest

import alexnet_exp
from alexnet_exp.kernels import native as module
from alexnet_exp.kernels.bindings import SIGNATURES, Signature, library
from alexnet_exp.kernels.native import native

DECLARATION = re.compile(r"^(int|void) (\w+)\(([^()]*)\)\s*\{", re.MULTILINE)
TYPES: dict[str, Any] = {"int": c_int, "int64_t": c_int64, "uint32_t": c_uint32, "float": c_float, "void": None}


def declared() -> dict[str, set[str]]:
    """The declarations of each exported function as text; of some there are two, one without AVX-512."""
    found: dict[str, set[str]] = {}
    for source in sorted(module.SOURCE_FOLDER.glob("*.c")):
        for result, name, arguments in DECLARATION.findall(source.read_text()):
            found.setdefault(name, set()).add(f"{result}: " + " ".join(arguments.split()))
    return found


def signature(declaration: str) -> Signature:
    result, arguments = declaration.split(": ")
    kinds = [c_void_p if "*" in argument else TYPES[argument.split()[0]] for argument in arguments.split(", ")]
    return TYPES[result], kinds


def test_every_exported_function_is_bound_as_c_declares_it() -> None:
    assert {name: next(signature(each) for each in sorted(texts)) for name, texts in declared().items()} == SIGNATURES


def test_functions_declared_twice_are_declared_alike() -> None:
    assert [name for name, texts in declared().items() if len(texts) > 1] == []


def test_argument_types_are_declared_in_one_place() -> None:
    package = Path(alexnet_exp.__file__).parent
    files = [file for file in package.rglob("*.py") if re.search(r"\.argtypes\b", file.read_text())]
    assert [file.name for file in files] == ["bindings.py"]


def test_the_library_has_every_function() -> None:
    kernels = library()
    if kernels is None:
        pytest.skip(native().why)
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(kernels, name)
        assert (function.restype, list(function.argtypes)) == (result, arguments)
