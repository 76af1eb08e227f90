"""Stratified orders and splits, counted by hand."""

from __future__ import annotations

import torch

from alexnet_exp.data.stratified import split_stratified, stratified_order

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def counts(indices: torch.Tensor) -> list[int]:
    return torch.bincount(LABELS[indices], minlength=3).tolist()


def test_prefixes_of_a_stratified_order_are_in_proportion() -> None:
    order = stratified_order(LABELS, seed=1)
    assert sorted(order.tolist()) == list(range(100))
    assert counts(order[:10]) == [6, 3, 1]
    assert counts(order[:50]) == [30, 15, 5]
    for n in range(1, 101):
        assert all(abs(got - n * share) < 1 for got, share in zip(counts(order[:n]), (0.6, 0.3, 0.1), strict=True))


def test_order_is_a_function_of_the_seed() -> None:
    assert torch.equal(stratified_order(LABELS, 1), stratified_order(LABELS, 1))
    assert not torch.equal(stratified_order(LABELS, 1), stratified_order(LABELS, 2))
    # the order of classes at equal positions is random too
    firsts = {int(stratified_order(torch.arange(4), seed)[0]) for seed in range(50)}
    assert firsts == {0, 1, 2, 3}


def test_fraction_of_each_class_is_held_out() -> None:
    rest, held = split_stratified(LABELS, 0.1, seed=1)
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(100))
    assert counts(held) == [6, 3, 1]
    again, other = split_stratified(LABELS, 0.1, seed=1)[1], split_stratified(LABELS, 0.1, seed=2)[1]
    assert torch.equal(held, again)
    assert not torch.equal(held, other)


def test_every_class_keeps_and_holds_out_an_image() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1])
    for fraction in (0.01, 0.99):
        rest, held = split_stratified(labels, fraction, seed=1)
        assert set(labels[rest].tolist()) == set(labels[held].tolist()) == {0, 1}


def test_class_with_one_image_prevents_holding_out() -> None:
    rest, held = split_stratified(torch.tensor([0, 0, 0, 1]), 0.5, seed=1)
    assert (rest.tolist(), held.tolist()) == ([0, 1, 2, 3], [])
