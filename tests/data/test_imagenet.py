"""ILSVRC-2012 in the layout of its official files: missing files, labels of a flat val/, class names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_exp.data.info import data_info
from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import ImageNet
from alexnet_exp.data.split import Source, StreamedSplit
from alexnet_exp.errors import UserError
from tests.devkit import NAME, TRUTH, as_archive, as_folder, meta, truth

MakeImages = Callable[..., Path]

# the order of the kit differs from that of the WNIDs: ID 1 is label 2, ID 2 is label 0, ID 3 is label 1
CLASSES = [("n02119789", "kit fox, Vulpes macrotis"), ("n01440764", "tench"), ("n02100735", "English setter")]
LABELS = [3, 1, 2, 2, 1, 3]
SORTED = ["n01440764 tench", "n02100735 English setter", "n02119789 kit fox, Vulpes macrotis"]


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture
def root(tmp_path: Path, make_images: MakeImages) -> Path:
    """Two training images per class and a flat val/ whose image i is grey with value 10 * i; without a devkit."""
    make_images(tmp_path / "train", {wnid: 2 for wnid, _ in CLASSES})
    (tmp_path / "val").mkdir()
    for i in range(len(LABELS)):
        pixels = np.full((40, 50, 3), 10 * (i + 1), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / val_name(i + 1), quality=100)
    return tmp_path


def with_kit(root: Path, images: int = 2) -> Path:
    as_folder(root, meta(CLASSES, images), truth(LABELS))
    return root


def opened(root: Path, **settings: object) -> Source:
    return open_source(ImageNet(root=str(root), size=32, **settings), seed=1)  # type: ignore[arg-type]


def line(root: Path | str | None, **settings: object) -> str:
    with pytest.raises(UserError) as error:
        open_source(ImageNet(root=None if root is None else str(root), **settings), seed=1)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


# --- val/ as published


def test_flat_images_get_the_labels_of_the_devkit(root: Path) -> None:
    test = opened(with_kit(root)).test
    assert test is not None
    images = test.images(torch.arange(6))
    found = {
        round(image.float().mean().item() / 10): int(label) for image, label in zip(images, test.labels, strict=True)
    }
    # by hand: image 1 has ID 3, the English setter, whose WNID is the second of three
    assert found == {1: 1, 2: 2, 3: 0, 4: 0, 5: 2, 6: 1}


def test_flat_and_sorted_val_give_the_same_test_set(root: Path) -> None:
    flat = opened(with_kit(root))
    for number, label in enumerate(LABELS, 1):
        folder = root / "val" / CLASSES[label - 1][0]
        folder.mkdir(exist_ok=True)
        (root / "val" / val_name(number)).rename(folder / val_name(number))
    ordered = opened(root)
    assert isinstance(flat.test, StreamedSplit)
    assert isinstance(ordered.test, StreamedSplit)
    assert flat.test.labels.tolist() == ordered.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [Path(path).name for path in flat.test.paths] == [Path(path).name for path in ordered.test.paths]
    assert flat.classes == ordered.classes == SORTED


def test_devkit_may_be_elsewhere_or_an_archive(root: Path) -> None:
    kit = as_folder(root.parent / "kits", meta(CLASSES), truth(LABELS))
    assert opened(root, devkit=str(kit)).classes == SORTED
    files = {f"{NAME}/{file.relative_to(kit)}": file.read_bytes() for file in kit.rglob("*") if file.is_file()}
    as_archive(root / f"{NAME}.tar.gz", files)
    assert opened(root).classes == SORTED
    assert "data.devkit=nowhere: no such file or folder" in line(root, devkit="nowhere")


def test_missing_validation_images_are_reported(root: Path) -> None:
    with_kit(root)
    assert opened(root).notes == []
    (root / "val" / val_name(2)).unlink()
    (root / "val" / val_name(6)).unlink()
    source = opened(root)
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 0, 1, 2]
    assert source.notes == ["2 of the 6 validation images are missing"]


def test_flat_val_without_a_devkit_is_rejected(root: Path) -> None:
    said = line(root)
    assert f"its labels are needed from {NAME}" in said
    assert "data.devkit=FILE, or sort the images into val/WNID/*" in said


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("cat.jpg", "1 image (cat.jpg) not named ILSVRC2012_val_NUMBER.JPEG"),
        ("ILSVRC2012_test_00000001.JPEG", "not named ILSVRC2012_val_NUMBER.JPEG"),
        ("ILSVRC2012_val_00000001 (1).JPEG", "not named"),
        ("ILSVRC2012_val_1.JPEG", "not named"),
        ("ILSVRC2012_val_00000002.jpg", "an image twice: ILSVRC2012_val_00000002.JPEG, ILSVRC2012_val_00000002.jpg"),
        (val_name(7), f"1 image ({val_name(7)}) beyond the 6 labels"),
        (val_name(0), "beyond the 6 labels"),
    ],
)
def test_image_outside_the_devkit_is_rejected(root: Path, added: str, said: str) -> None:
    (with_kit(root) / "val" / added).touch()
    assert said in line(root)


def test_other_files_in_val_are_ignored(root: Path) -> None:
    for name in ("valprep.sh", ".DS_Store", "._ILSVRC2012_val_00000001.JPEG"):
        (with_kit(root) if not (root / NAME).exists() else root).joinpath("val", name).touch()
    test = opened(root).test
    assert test is not None
    assert len(test) == 6


def test_val_class_missing_in_train_is_rejected(root: Path) -> None:
    for file in (root / "train" / "n01440764").iterdir():
        file.unlink()
    assert "val/ has images of classes that train/ lacks: n01440764" in line(with_kit(root))


def test_partly_sorted_val_is_rejected(root: Path, make_images: MakeImages) -> None:
    make_images(with_kit(root) / "val", {"n01440764": 1})
    assert "val/ contains class folders and also 6 images" in line(root)


# --- missing files


def test_missing_training_images_are_reported(root: Path) -> None:
    with_kit(root, images=3)
    assert opened(root).notes == [
        "train/ has fewer images than the devkit counts: n01440764 (2 of 3), n02100735 (2 of 3), n02119789 (2 of 3)"
    ]


def test_error_names_packed_archives(tmp_path: Path, make_images: MakeImages) -> None:
    assert "data.root=null" in line(None)
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    assert "ILSVRC2012_img_train.tar is not unpacked; unpack it into train/WNID/" in line(tmp_path)
    make_images(tmp_path / "train", {"n01440764": 1, "n02100735": 1})
    assert opened(tmp_path).notes == ["no val folder, so no test images"]
    (tmp_path / "train" / "n02119789.tar").touch()
    assert "train/ contains 1 archive (n02119789.tar); unpack each into a folder" in line(tmp_path)


def test_missing_train_and_empty_val_are_rejected(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "bare", {"n01440764": 1, "n02100735": 1})
    make_images(tmp_path / "bare", {"val": 1})
    assert "has no train/ with class folders" in line(tmp_path / "bare")
    make_images(tmp_path / "train", {"n01440764": 1, "n02100735": 1})
    (tmp_path / "val").mkdir()
    assert "val/ contains no images; unpack ILSVRC2012_img_val.tar into it" in line(tmp_path)


def test_damaged_devkit_and_class_list_are_one_line_errors(root: Path) -> None:
    with_kit(root)
    (root / NAME / TRUTH).write_text("1\n2\n")
    assert "not a usable ILSVRC2012_devkit_t12" in line(root)
    (root / "words.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"words\.txt: not UTF-8 text"):
        data_info(ImageNet(root=str(root)))


# --- sorted val/


def test_official_validation_set_is_the_test_set(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {"n01440764": 4, "n01443537": 4})
    make_images(tmp_path / "val", {"n01440764": 1, "n01443537": 2})
    source = opened(tmp_path)
    assert [len(split or []) for split in (source.train, source.val, source.test)] == [6, 2, 3]
    assert source.train.shape == (3, 32, 32)


def test_class_names_come_from_a_list(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "train", {wnid: 1 for wnid, _ in CLASSES})
    spec = ImageNet(root=str(tmp_path))
    assert data_info(spec).classes == ["n01440764", "n02100735", "n02119789"]
    assert (data_info(spec).size, data_info(spec).input_size) == (256, 224)
    with_kit(tmp_path)
    assert data_info(spec).classes == SORTED
    # WordNet's list has tabs and single words; a list in the root takes precedence over the devkit there
    (tmp_path / "words.txt").write_text("n01440764\ttench, Tinca tinca\nn02119789\tfox\nn00001740\tentity\n")
    assert data_info(spec).classes == ["n01440764 tench, Tinca tinca", "n02100735", "n02119789 fox"]
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 a tench\nn02100735 a setter\n")
    assert data_info(spec).classes == ["n01440764 a tench", "n02100735 a setter", "n02119789"]
    # data.devkit takes precedence over lists
    assert data_info(ImageNet(root=str(tmp_path), devkit=str(tmp_path / NAME))).classes == SORTED


def test_classes_are_in_wnid_order(root: Path) -> None:
    source = opened(with_kit(root))
    assert source.classes == sorted(source.classes)
    assert isinstance(source.train, StreamedSplit)
    by_label = {
        int(label): Path(path).parent.name for path, label in zip(source.train.paths, source.train.labels, strict=True)
    }
    assert [by_label[label] for label in sorted(by_label)] == sorted(wnid for wnid, _ in CLASSES)
