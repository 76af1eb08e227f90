"""ILSVRC-2012 as its files are published: the layout under `data.root`, the labels and the names. No torch here."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from alexnet_exp.data.devkit import NAME, Devkit, find_devkit, read_devkit
from alexnet_exp.data.image_files import Files, Layout, class_folders, find_layout, loose_images
from alexnet_exp.data.spec import ImageNet
from alexnet_exp.errors import UserError, one_line

# Lists of `WNID words` that may lie in the root: Kaggle's, the one of Caffe's users, WordNet's.
LISTS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
VAL_FILE = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")
SHOWN = 3


def find_imagenet(spec: ImageNet) -> Layout:
    """`train/WNID/*` under the root, and `val/WNID/*` where val is sorted so.

    Raises UserError where `train/` is missing or holds archives that are still to be unpacked, and for a `val/` without
    images, or with images both in class folders and beside them.
    """
    root = Path(spec.root or "").expanduser()
    if spec.root is not None and root.is_dir():
        _refuse_packed(root, spec.root)
    layout = find_layout(spec.root)
    val = root / "val"
    loose = loose_images(val)
    if layout.val is not None and loose:
        raise UserError(
            f"data.root={spec.root}: val/ has class folders, and beside them {_some(loose, 'image')}; "
            "sort all images into val/WNID/*, or none"
        )
    if val.is_dir() and layout.val is None and not loose:
        raise UserError(f"data.root={spec.root}: val/ holds no images; unpack ILSVRC2012_img_val.tar into it")
    return layout


def class_names(spec: ImageNet, layout: Layout) -> list[str]:
    """`WNID words` for each class, by a list in the root or by the devkit, else the WNIDs; sorted by WNID."""
    root = layout.train.parent
    file = next((root / name for name in LISTS if (root / name).is_file()), None)
    if spec.devkit is None and file is not None:
        words = _listed(file)
    else:
        devkit = opened_devkit(spec, layout)
        words = devkit.words if devkit else {}
    return [f"{wnid} {words[wnid]}" if words.get(wnid) else wnid for wnid in layout.classes]


def opened_devkit(spec: ImageNet, layout: Layout) -> Devkit | None:
    """The devkit that `data.devkit` names or that lies in the root, if there is one."""
    path = find_devkit(spec.devkit, layout.train.parent)
    return None if path is None else read_devkit(path)


def flat_val(spec: ImageNet, layout: Layout, devkit: Devkit | None) -> tuple[Files | None, list[str]]:
    """The images that lie in `val/` as published, by class and then by number, with the devkit's labels; and notes.

    None where `val/` is sorted into class folders, or missing. Raises UserError without a devkit, and for images that
    it does not know: another name, a number twice or beyond its list, a class that `train/` lacks.
    """
    val = layout.train.parent / "val"
    names = loose_images(val)
    if not names:
        return None, []
    if devkit is None:
        raise UserError(
            f"data.root={spec.root}: val/ has no class folders, and {NAME} has the labels; put {NAME}.tar.gz into "
            f"{spec.root}, write data.devkit=FILE, or sort its images into val/WNID/*"
        )
    numbers = _numbers(spec, names)
    beyond = [name for name, number in numbers.items() if not 1 <= number <= len(devkit.truth)]
    if beyond:
        raise UserError(f"{val}: {_some(beyond, 'image')} beyond the {len(devkit.truth):,} labels of {devkit.path}")
    wnids = {name: devkit.wnids[devkit.truth[number - 1] - 1] for name, number in numbers.items()}
    labels = {wnid: label for label, wnid in enumerate(layout.classes)}
    lacking = sorted(set(wnids.values()) - set(labels))
    if lacking:
        raise UserError(
            f"data.root={spec.root}: val/ has images of classes that train/ lacks: {_listed_briefly(lacking)}"
        )
    ordered = sorted(names, key=lambda name: (labels[wnids[name]], name))
    missing = len(devkit.truth) - len(names)
    notes = [f"{missing:,} of the {len(devkit.truth):,} validation images are missing"] if missing else []
    return Files(val, ordered, [labels[wnids[name]] for name in ordered]), notes


def missing_images(devkit: Devkit | None, layout: Layout, files: Files) -> list[str]:
    """A note that names the classes with fewer training images than the devkit counts, where there are any."""
    if devkit is None:
        return []
    found = Counter(files.labels)
    short = [
        f"{wnid} ({found[label]:,} of {devkit.counts[wnid]:,})"
        for label, wnid in enumerate(layout.classes)
        if found[label] < devkit.counts.get(wnid, 0)
    ]
    return [f"train/ has fewer images than the devkit counts: {_listed_briefly(short)}"] if short else []


def _refuse_packed(root: Path, setting: str) -> None:
    train = root / "train"
    packed = sorted(train.glob("*.tar")) if train.is_dir() else []
    if packed:
        raise UserError(
            f"data.root={setting}: train/ has {_some([file.name for file in packed], 'archive')} still to be unpacked, "
            "each into a folder of its own name; docs/guides/imagenet.md has the command"
        )
    if class_folders(train):
        return
    if (root / "ILSVRC2012_img_train.tar").is_file():
        raise UserError(
            f"data.root={setting}: ILSVRC2012_img_train.tar is still to be unpacked into train/WNID/; "
            "docs/guides/imagenet.md has the command"
        )
    raise UserError(f"data.root={setting}: has no train/ with class folders; lay the images as train/WNID/*")


def _numbers(spec: ImageNet, names: list[str]) -> dict[str, int]:
    """Each file's number in `ILSVRC2012_val_NUMBER.JPEG`."""
    matches = {name: VAL_FILE.fullmatch(name) for name in names}
    foreign = [name for name, match in matches.items() if match is None]
    if foreign:
        raise UserError(
            f"data.root={spec.root}: val/ has {_some(foreign, 'image')} not called ILSVRC2012_val_NUMBER.JPEG; "
            "move or remove them"
        )
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    times = Counter(numbers.values())
    twice = [name for name, number in numbers.items() if times[number] > 1]
    if twice:
        raise UserError(f"data.root={spec.root}: val/ has an image twice: {_listed_briefly(twice)}; remove one")
    return numbers


def _listed(file: Path) -> dict[str, str]:
    """WNID to words, of lines `WNID words`, split by a blank or a tab."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: cannot be read as text in UTF-8, lines of WNID and words; replace or remove it"
        ) from error
    pairs = [line.split(maxsplit=1) for line in lines]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _some(names: list[str], what: str) -> str:
    return f"{len(names):,} {what}{'s' if len(names) > 1 else ''} ({_listed_briefly(names)})"


def _listed_briefly(names: list[str]) -> str:
    return one_line(", ".join(names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
