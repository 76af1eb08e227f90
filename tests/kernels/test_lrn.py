"""Which tensors the LRN kernel takes; what it computes is tested in tests/model/test_lrn.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from alexnet_exp.kernels import bindings, lrn
from alexnet_exp.kernels.bindings import library
from alexnet_exp.kernels.lrn import Formula
from alexnet_exp.kernels.native import native

FORMULA = Formula(alpha=1e-4, beta=0.75, k=2.0, reach=2, columns=1)


class Subclass(Tensor):
    pass


@pytest.fixture(autouse=True)
def there_is_a_kernel() -> None:
    if native().library is None:
        pytest.skip(native().why)


@pytest.mark.parametrize(
    "a",
    [
        torch.ones(2, 3, 4, 4),
        nn.Parameter(torch.ones(2, 3)),
        torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)[:, ::2],
        torch.empty(0, 3, 4, 4),
    ],
)
def test_the_kernel_applies(a: Tensor) -> None:
    assert lrn.takes(a, FORMULA)


@pytest.mark.parametrize(
    "a",
    [
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.float16),
        torch.ones(2, 3, device="meta"),
        torch.ones(2, 3).as_subclass(Subclass),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, dtype=torch.complex64).conj().imag,
    ],
    ids=["float64", "float16", "meta", "a subclass", "sparse", "negated when it is read"],
)
def test_the_kernel_does_not_apply(a: Tensor) -> None:
    assert not lrn.takes(a, FORMULA)


@pytest.mark.parametrize("change", [{"k": 1e-31}, {"k": 0.0}, {"k": -1.0}, {"alpha": -1.0}])
def test_the_kernel_does_not_apply_where_d_may_be_0(change: dict[str, float]) -> None:
    assert not lrn.takes(torch.ones(2, 3), FORMULA._replace(**change))


def test_without_a_library_the_kernel_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "native", lambda: SimpleNamespace(library=None))
    library.cache_clear()
    assert not lrn.takes(torch.ones(2, 3), FORMULA)
    monkeypatch.undo()
    library.cache_clear()
    assert lrn.takes(torch.ones(2, 3), FORMULA)


def test_a_kernel_without_memory_raises_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lrn, "library", lambda: SimpleNamespace(lrn=lambda *arguments: 1))
    with pytest.raises(MemoryError, match="local response normalization"):
        lrn.forward(torch.ones(2, 3), FORMULA)
