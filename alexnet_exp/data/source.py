"""Provides the opening of a data source, with validation images chosen by the run's seed."""

from __future__ import annotations

from dataclasses import replace

from alexnet_exp.data.cifar import open_cifar
from alexnet_exp.data.digits import open_digits
from alexnet_exp.data.folder import open_folder, open_imagenet
from alexnet_exp.data.info import check_crop
from alexnet_exp.data.random import open_random
from alexnet_exp.data.spec import Cifar, Data, Digits, Folder, ImageNet, Random, Val
from alexnet_exp.data.split import Source
from alexnet_exp.data.stratified import split_stratified, stratified_order
from alexnet_exp.errors import UserError
from alexnet_exp.seeds import derive


def open_source(spec: Data, seed: int) -> Source:
    """Returns the source of `spec`, with the validation images of `spec.val`.

    seed: chooses the training images that become validation images, and those of a `subset`. The test images do not
    depend on it. Raises UserError for data that is missing or unreadable.
    """
    if isinstance(spec, Digits):
        found = open_digits(spec)
    elif isinstance(spec, Cifar):
        found = open_cifar(spec)
    elif isinstance(spec, Folder):
        found = open_folder(spec)
    elif isinstance(spec, ImageNet):
        found = open_imagenet(spec)
    elif isinstance(spec, Random):
        found = open_random(spec)
    else:
        raise TypeError(f"{type(spec).__name__} is not one of the sources in data/spec.py")
    return arrange(found, spec, seed)


def arrange(found: Source, spec: Data, seed: int) -> Source:
    """Returns `found` with validation images, and with its training images reduced to `spec.subset`.

    The validation images of the source itself are used if it has any; otherwise they are split off.
    """
    check_crop(spec, min(found.train.shape[1:]))
    source = _with_validation(found, spec, seed)
    if spec.subset is not None and spec.subset < len(source.train):
        kept = stratified_order(source.train.labels, derive(seed, "subset"))[: spec.subset]
        note = f"a subset of {spec.subset:,} of {len(source.train):,} training images"
        source = replace(source, train=source.train.select(kept.sort().values), notes=[*source.notes, note])
    return source


def _with_validation(found: Source, spec: Data, seed: int) -> Source:
    if spec.val is Val.none:
        return replace(found, val=None, val_from="none (data.val=none)")
    if spec.val is Val.test:
        test = found.test or found.val
        if test is None:
            raise UserError("data.val=test: the data has no test images; write data.val=split or data.val=none")
        return replace(
            found, val=test, test=test, val_from="the test set (data.val=test), so test scores are optimistic"
        )
    if found.val is not None:
        return found
    rest, held = split_stratified(found.train.labels, spec.val_fraction, derive(seed, "val"))
    if not len(held):
        return replace(found, val_from="none: a class has one image only, too few to split")
    val_from = f"split off the training images, {spec.val_fraction:.3g} of each class, by seed {seed}"
    return replace(found, train=found.train.select(rest), val=found.train.select(held), val_from=val_from)
