"""Provides the layout, labels and class names of ILSVRC-2012 as its files are published. Does not import torch."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from alexnet_exp.data.devkit import DEVKIT_NAME, Devkit, find_devkit, read_devkit
from alexnet_exp.data.image_files import FolderLayout, ImageFiles, class_folders, find_layout, loose_images
from alexnet_exp.data.spec import ImageNet
from alexnet_exp.errors import UserError, one_line

# Names of the text files that list `WNID words` per line: Kaggle's, that of Caffe users, WordNet's.
CLASS_LIST_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
VAL_FILE_PATTERN = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")
MOST_LISTED_NAMES = 3


def find_imagenet(spec: ImageNet) -> FolderLayout:
    """Returns the layout under `spec.root`: `train/WNID/*`, and `val/WNID/*` if val is sorted into class folders.

    Raises UserError if `train/` is missing or contains packed archives, if `val/` contains no images, or if it contains
    images both inside and outside class folders.
    """
    root = Path(spec.root or "").expanduser()
    if spec.root is not None and root.is_dir():
        _check_unpacked(root, spec.root)
    layout = find_layout(spec.root)
    val = root / "val"
    loose = loose_images(val)
    if layout.val is not None and loose:
        raise UserError(
            f"data.root={spec.root}: val/ contains class folders and also {_count_names(loose, 'image')}; "
            "sort all images into val/WNID/*, or none of them"
        )
    if val.is_dir() and layout.val is None and not loose:
        raise UserError(f"data.root={spec.root}: val/ contains no images; unpack ILSVRC2012_img_val.tar into it")
    return layout


def class_names(spec: ImageNet, layout: FolderLayout) -> list[str]:
    """Returns `WNID words` of each class, sorted by WNID.

    The words come from a list in the root, else from the devkit; without either the names are the WNIDs.
    """
    root = layout.train.parent
    file = next((root / name for name in CLASS_LIST_FILES if (root / name).is_file()), None)
    if spec.devkit is None and file is not None:
        words = _read_class_list(file)
    else:
        devkit = open_devkit(spec, layout)
        words = devkit.words if devkit else {}
    return [f"{wnid} {words[wnid]}" if words.get(wnid) else wnid for wnid in layout.classes]


def open_devkit(spec: ImageNet, layout: FolderLayout) -> Devkit | None:
    """Returns the devkit at `data.devkit` or in the root, or None if neither exists."""
    path = find_devkit(spec.devkit, layout.train.parent)
    return None if path is None else read_devkit(path)


def flat_val(spec: ImageNet, layout: FolderLayout, devkit: Devkit | None) -> tuple[ImageFiles | None, list[str]]:
    """Returns the files of a flat `val/` as published, with the devkit's labels, and notes for the log.

    The files are sorted by class, then by number. They are None if `val/` is missing or sorted into class folders.
    Raises UserError without a devkit, and for images that the devkit does not cover: another name, a duplicate number,
    a number beyond its labels, or a class that `train/` lacks.
    """
    val = layout.train.parent / "val"
    names = loose_images(val)
    if not names:
        return None, []
    if devkit is None:
        raise UserError(
            f"data.root={spec.root}: val/ has no class folders, so its labels are needed from {DEVKIT_NAME}; "
            f"put {DEVKIT_NAME}.tar.gz into {spec.root}, write data.devkit=FILE, or sort the images into val/WNID/*"
        )
    numbers = _numbers(spec, names)
    beyond = [name for name, number in numbers.items() if not 1 <= number <= len(devkit.truth)]
    if beyond:
        raise UserError(
            f"{val}: {_count_names(beyond, 'image')} beyond the {len(devkit.truth):,} labels of {devkit.path}"
        )
    wnids = {name: devkit.wnids[devkit.truth[number - 1] - 1] for name, number in numbers.items()}
    labels = {wnid: label for label, wnid in enumerate(layout.classes)}
    lacking = sorted(set(wnids.values()) - set(labels))
    if lacking:
        raise UserError(f"data.root={spec.root}: val/ has images of classes that train/ lacks: {_list_names(lacking)}")
    ordered = sorted(names, key=lambda name: (labels[wnids[name]], name))
    missing = len(devkit.truth) - len(names)
    notes = [f"{missing:,} of the {len(devkit.truth):,} validation images are missing"] if missing else []
    return ImageFiles(val, ordered, [labels[wnids[name]] for name in ordered]), notes


def missing_images(devkit: Devkit | None, layout: FolderLayout, files: ImageFiles) -> list[str]:
    """Returns a note that names the classes with fewer training images than the devkit lists, or no note."""
    if devkit is None:
        return []
    found = Counter(files.labels)
    short = [
        f"{wnid} ({found[label]:,} of {devkit.counts[wnid]:,})"
        for label, wnid in enumerate(layout.classes)
        if found[label] < devkit.counts.get(wnid, 0)
    ]
    return [f"train/ has fewer images than the devkit counts: {_list_names(short)}"] if short else []


def _check_unpacked(root: Path, setting: str) -> None:
    train = root / "train"
    packed = sorted(train.glob("*.tar")) if train.is_dir() else []
    if packed:
        raise UserError(
            f"data.root={setting}: train/ contains {_count_names([file.name for file in packed], 'archive')}; "
            "unpack each into a folder of the same name (docs/guides/imagenet.md has the command)"
        )
    if class_folders(train):
        return
    if (root / "ILSVRC2012_img_train.tar").is_file():
        raise UserError(
            f"data.root={setting}: ILSVRC2012_img_train.tar is not unpacked; unpack it into train/WNID/ "
            "(docs/guides/imagenet.md has the command)"
        )
    raise UserError(f"data.root={setting}: has no train/ with class folders; arrange the images as train/WNID/*")


def _numbers(spec: ImageNet, names: list[str]) -> dict[str, int]:
    """Returns each file's number in `ILSVRC2012_val_NUMBER.JPEG`; raises UserError for other or duplicate names."""
    matches = {name: VAL_FILE_PATTERN.fullmatch(name) for name in names}
    foreign = [name for name, match in matches.items() if match is None]
    if foreign:
        raise UserError(
            f"data.root={spec.root}: val/ contains {_count_names(foreign, 'image')} not named "
            "ILSVRC2012_val_NUMBER.JPEG; move or remove them"
        )
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    times = Counter(numbers.values())
    twice = [name for name, number in numbers.items() if times[number] > 1]
    if twice:
        raise UserError(
            f"data.root={spec.root}: val/ contains an image twice: {_list_names(twice)}; remove one of them"
        )
    return numbers


def _read_class_list(file: Path) -> dict[str, str]:
    """Returns words by WNID from a file of lines `WNID words`, separated by a space or a tab."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not UTF-8 text with lines of WNID and words; replace or remove it") from error
    pairs = [line.split(maxsplit=1) for line in lines]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _count_names(names: list[str], what: str) -> str:
    return f"{len(names):,} {what}{'s' if len(names) > 1 else ''} ({_list_names(names)})"


def _list_names(names: list[str]) -> str:
    return one_line(", ".join(names[:MOST_LISTED_NAMES])) + (", ..." if len(names) > MOST_LISTED_NAMES else "")
