"""Provides the sources of image folders with one folder per class, and of ImageNet."""

from __future__ import annotations

from collections.abc import Callable

import torch

from alexnet_exp.data.cache import load_decoded, open_cache
from alexnet_exp.data.decode import BrokenImagesError
from alexnet_exp.data.image_files import FolderLayout, ImageFiles, find_layout, list_files
from alexnet_exp.data.imagenet import class_names, find_imagenet, flat_val, missing_images, open_devkit
from alexnet_exp.data.info import RESIDENT_SIDE_PIXELS, stored_side
from alexnet_exp.data.spec import Folder, ImageNet
from alexnet_exp.data.split import CachedSplit, ResidentSplit, Source, Split, StreamedSplit, fingerprint
from alexnet_exp.errors import one_line
from alexnet_exp.paths import cache_folder


def open_folder(spec: Folder) -> Source:
    """Returns the source under `spec.root`: in memory up to a side of 64 pixels, else decoded once or at each use.

    Without a `test` folder there are no test images; `data.val=test` then uses those of `val/` as both.
    """
    layout = find_layout(spec.root)
    size = stored_side(spec, layout)
    how: list[str] = []

    def build(files: ImageFiles) -> Split:
        if size <= RESIDENT_SIDE_PIXELS:
            return ResidentSplit(load_decoded(files, size, cache_folder(spec.cache)), torch.tensor(files.labels))
        return open_large(files, size, spec, how)

    train, val, test = _splits(layout, build)
    assert train is not None
    notes = _empty_note(layout)
    ignored = layout.unused_images()
    if ignored:
        notes.append(f"unused images: {one_line(', '.join(ignored))}")
    if test is None:
        advice = f"; data.val=test uses {layout.val.name}/ as test set" if layout.val else ""
        notes.append(f"no test folder, so no test images{advice}")
    val_from = f"the {layout.val.name} folder" if layout.val else ""
    return Source(train, val, test, layout.classes, fingerprint(train, test), val_from, notes, _join_unique(how))


def open_imagenet(spec: ImageNet) -> Source:
    """Returns ILSVRC-2012 under `spec.root`; the test images are those of `val/`, in class folders or flat."""
    layout = find_imagenet(spec)
    devkit = open_devkit(spec, layout)
    files = list_files(layout.train, layout.classes)
    flat, notes = flat_val(spec, layout, devkit)
    held_out = flat or (None if layout.val is None else list_files(layout.val, layout.classes))
    how: list[str] = []
    train = open_large(files, spec.size, spec, how)
    test = None if held_out is None else open_large(held_out, spec.size, spec, how)
    notes = [*_empty_note(layout), *missing_images(devkit, layout, files), *notes]
    if test is None:
        notes.append("no val folder, so no test images")
    names, hashed = class_names(spec, layout), fingerprint(train, test)
    return Source(train, None, test, names, hashed, notes=notes, reading=_join_unique(how))


def open_large(files: ImageFiles, size: int, spec: Folder | ImageNet, how: list[str]) -> StreamedSplit:
    """Returns `files` as squares of side `size`, decoded as `spec.decode` says; appends a description to `how`."""
    images, note = open_cache(files, size, spec.decode, cache_folder(spec.cache))
    how.append(note)
    labels, stamps = torch.tensor(files.labels), torch.tensor(files.stamps).view(-1, 2)
    if images is None:
        return StreamedSplit(files.paths(), labels, size, stamps)
    return CachedSplit(files.paths(), labels, images, stamps)


def _join_unique(how: list[str]) -> str:
    """Returns the distinct descriptions of how the splits are read."""
    return "; ".join(dict.fromkeys(how))


def _splits(layout: FolderLayout, build: Callable[[ImageFiles], Split]) -> list[Split | None]:
    """Returns the training, validation and test splits; raises one BrokenImagesError for the files of all three."""
    splits: list[Split | None] = []
    broken: list[BrokenImagesError] = []
    for folder in (layout.train, layout.val, layout.test):
        try:
            splits.append(None if folder is None else build(list_files(folder, layout.classes)))
        except BrokenImagesError as error:
            broken.append(error)
    if broken:
        raise BrokenImagesError("\n".join(map(str, broken))) from broken[0]
    return splits


def _empty_note(layout: FolderLayout) -> list[str]:
    return [f"class folders without images are ignored: {', '.join(layout.empty)}"] if layout.empty else []
