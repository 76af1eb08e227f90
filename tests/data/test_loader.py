"""Batches of an epoch: every image once, for any number of ranks, from any resume point."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alexnet_exp.data.loader import EpochPlan, ResidentLoader, StreamedLoader, epoch_order
from alexnet_exp.data.split import ResidentSplit, StreamedSplit
from alexnet_exp.errors import UserError

SIZES = (1, 2, 3, 7, 8, 9, 10, 16, 17, 29)


def shares(n: int, batch_size: int, world: int, order: torch.Tensor) -> list[list[torch.Tensor]]:
    """Returns the batches of each rank."""
    plans = [EpochPlan(n, batch_size, rank, world) for rank in range(world)]
    return [[plan.share(order, batch) for batch in range(len(plan))] for plan in plans]


@pytest.mark.parametrize(("n", "batch_size", "world"), itertools.product(SIZES, (3, 4, 8), (1, 2, 3)))
def test_every_image_is_used_exactly_once(n: int, batch_size: int, world: int) -> None:
    ranks = shares(n, batch_size, world, epoch_order(n, 1, 0, shuffle=True))
    used = torch.cat([share for batches in ranks for share in batches])
    assert sorted(used.tolist()) == list(range(n))
    if n >= world:
        assert len({len(batches) for batches in ranks}) == 1
    for batch, parts in enumerate(zip(*ranks, strict=n >= world)):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        assert sum(lengths) == EpochPlan(n, batch_size, 0, world).global_size(batch)


@pytest.mark.parametrize("world", [2, 3])
def test_global_batches_do_not_depend_on_the_ranks(world: int) -> None:
    order = epoch_order(24, 1, 0, shuffle=True)
    (alone,) = shares(24, 8, 1, order)
    ranks = shares(24, 8, world, order)
    for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert sorted(torch.cat(parts).tolist()) == sorted(batch.tolist())


def test_batch_sizes_of_examples() -> None:
    # two ranks: 10 = 4 + 4 + 2 and 9 = 4 + (4 + 1), the last image is merged; 3 ranks need 3 images in the last batch
    assert [EpochPlan(10, 4, 0, 2).global_size(b) for b in range(len(EpochPlan(10, 4, 0, 2)))] == [4, 4, 2]
    assert [EpochPlan(9, 4, 0, 2).global_size(b) for b in range(len(EpochPlan(9, 4, 0, 2)))] == [4, 5]
    assert [EpochPlan(9, 4, 0, 1).global_size(b) for b in range(len(EpochPlan(9, 4, 0, 1)))] == [4, 4, 1]
    assert [EpochPlan(10, 4, 0, 3).global_size(b) for b in range(len(EpochPlan(10, 4, 0, 3)))] == [4, 6]
    # only with fewer images than ranks some ranks have no batch
    assert [len(EpochPlan(2, 4, rank, 3)) for rank in range(3)] == [1, 1, 0]


def test_batch_smaller_than_the_ranks_is_rejected() -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=2: must be at least 3"):
        EpochPlan(10, 2, 0, 3)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch, True).tolist()) for seed in (1, 2) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    torch.manual_seed(7)
    assert tuple(epoch_order(50, 1, 0, True).tolist()) == orders[1, 0]
    assert epoch_order(5, 1, 0, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def resident(n: int = 10) -> ResidentSplit:
    return ResidentSplit(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), torch.arange(n) + 100)


def test_loader_yields_images_with_their_labels() -> None:
    loader = ResidentLoader(resident(), EpochPlan(10, 4, 1, 2), lambda: torch.arange(10).flip(0))
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert [images.flatten().tolist() for images, _ in batches] == [[8, 6], [4, 2], [0]]
    assert [labels.tolist() for _, labels in batches] == [[108, 106], [104, 102], [100]]
    assert (batches[0][0].dtype, batches[0][1].dtype) == (torch.uint8, torch.int64)


def test_order_and_start_are_called_at_the_first_batch() -> None:
    order, start = torch.arange(10), 0
    loader = ResidentLoader(resident(), EpochPlan(10, 4), lambda: order, lambda: start)
    iterator = iter(loader)
    order, start = order.flip(0), 2
    assert [labels.tolist() for _, labels in iterator] == [[101, 100]]
    assert len(loader) == 3


@pytest.fixture
def streamed(tmp_path: Path, make_images: Callable[..., Path]) -> StreamedSplit:
    folder = make_images(tmp_path / "images", {"a": 5, "b": 4}, (8, 8))
    return StreamedSplit([str(p) for p in sorted(folder.rglob("*.png"))], torch.tensor([0] * 5 + [1] * 4), 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_resident_batches(streamed: StreamedSplit, workers: int) -> None:
    images = ResidentSplit(streamed.images(torch.arange(9)), streamed.labels)
    epoch = 0
    plan = EpochPlan(9, 4)

    def order() -> torch.Tensor:
        return epoch_order(9, 1, epoch, shuffle=True)

    torch.manual_seed(3)
    expected_state = torch.get_rng_state()
    loader = StreamedLoader(streamed, plan, order, workers=workers)
    for epoch in (0, 1):
        if epoch == 1:
            # an interrupted epoch must leave no batch for the next
            next(iter(loader))
        for (got, labels), (want, wanted) in zip(loader, ResidentLoader(images, plan, order), strict=True):
            assert torch.equal(got, want)
            assert torch.equal(labels, wanted)
    assert torch.equal(torch.get_rng_state(), expected_state)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_file_is_a_one_line_error(streamed: StreamedSplit, workers: int) -> None:
    Path(streamed.paths[5]).write_bytes(b"broken")
    loader = StreamedLoader(streamed, EpochPlan(9, 4), lambda: torch.arange(9), workers=workers)
    with pytest.raises(UserError) as error:
        list(loader)
    loader.close()
    assert str(error.value).startswith(streamed.paths[5])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", range(6, 40))
def test_min_images_holds_on_every_rank(n: int, world: int) -> None:
    plans = [EpochPlan(n, 6, rank, world, min_images=2) for rank in range(world)]
    order = torch.randperm(n)
    shares = [[plan.share(order, batch) for batch in range(len(plan))] for plan in plans]
    assert len({len(of_rank) for of_rank in shares}) == 1
    assert min(len(share) for of_rank in shares for share in of_rank) >= 2
    assert sorted(torch.cat([share for of_rank in shares for share in of_rank]).tolist()) == list(range(n))
    with pytest.raises(UserError, match="two images, which a batch norm of the network needs, for each process"):
        EpochPlan(n, 2 * world - 1, 0, world, min_images=2)
