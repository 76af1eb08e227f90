"""Information about the data before it is opened, and rejected folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_exp.data.info import DataInfo, data_info
from alexnet_exp.data.spec import Cifar10, Cifar100, Digits, Folder, Random
from alexnet_exp.errors import UserError

MakeImages = Callable[..., Path]


def of_folder(root: Path, **settings: int) -> DataInfo:
    return data_info(Folder(root=str(root), **settings))  # type: ignore[arg-type]


def test_info_of_fixed_sources() -> None:
    digits = data_info(Digits())
    assert (len(digits.classes), digits.channels, digits.size, digits.input_size, digits.width) == (10, 1, 32, 32, 0.25)
    cifar10, cifar100 = data_info(Cifar10()), data_info(Cifar100())
    assert (cifar10.classes[0], cifar10.classes[9], cifar10.channels, cifar10.size) == ("airplane", "truck", 3, 32)
    # the official list is alphabetical
    assert len(set(cifar100.classes)) == 100
    assert cifar100.classes == sorted(cifar100.classes)
    random = data_info(Random(size=224, classes=1000))
    assert (len(random.classes), random.input_size, random.width) == (1000, 224, 1.0)


@pytest.mark.parametrize(
    ("sizes", "stored", "input_size"),
    [
        ([(32, 32), (32, 32)], 32, 32),
        ([(64, 80), (64, 80)], 64, 64),
        ([(32, 32), (33, 32)], 256, 224),
        ([(65, 65), (65, 65)], 256, 224),
    ],
)
def test_small_equal_images_keep_their_size(
    tmp_path: Path, make_images: MakeImages, sizes: list[tuple[int, int]], stored: int, input_size: int
) -> None:
    for name, size in zip("ab", sizes, strict=True):
        make_images(tmp_path, {name: 2}, size)
    found = of_folder(tmp_path)
    assert (found.classes, found.channels, found.size, found.input_size) == (["a", "b"], 3, stored, input_size)


def test_settings_override_the_size_of_the_images(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"a": 1, "b": 1})
    found = of_folder(tmp_path, size=128, crop=100)
    assert (found.size, found.input_size) == (128, 100)
    with pytest.raises(UserError, match=r"data\.crop=33: the images are stored at 32x32; write at most 32"):
        of_folder(tmp_path, crop=33)


def one_line(root: Path | None) -> str:
    with pytest.raises(UserError) as error:
        data_info(Folder(root=None if root is None else str(root)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unusable_folder_is_a_one_line_error(tmp_path: Path, make_images: MakeImages) -> None:
    assert "data.root=null: must be a folder of images" in one_line(None)
    assert "no such folder; write the path of an existing folder" in one_line(tmp_path / "missing")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "no images in class folders" in one_line(tmp_path / "empty")
    make_images(tmp_path / "one", {"cat": 3})
    assert "only one class, cat" in one_line(tmp_path / "one")


@pytest.mark.parametrize("part", ["val", "test"])
def test_class_missing_in_train_is_rejected(tmp_path: Path, make_images: MakeImages, part: str) -> None:
    make_images(tmp_path / "train", {"cat": 1, "dog": 1})
    make_images(tmp_path / part, {"cat": 1, "owl": 1})
    assert f"{part}/ has classes that train/ lacks: owl" in one_line(tmp_path)


def test_error_names_a_damaged_header(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "000.png").write_bytes(b"no image")
    assert str(tmp_path / "a" / "000.png") in one_line(tmp_path)


def test_error_names_a_decompression_bomb_with_its_size(
    tmp_path: Path, make_images: MakeImages, capfd: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path, {"a": 1, "b": 1})
    # a PPM has its size as text
    (tmp_path / "a" / "000.png").write_bytes(b"P6 30000 30000 255 ")
    assert one_line(tmp_path) == (
        f"{tmp_path}/a/000.png: Image size (900000000 pixels) exceeds limit of 178956970 pixels; "
        "reduce its size or remove it"
    )
    (tmp_path / "a" / "000.png").write_bytes(b"P6 30000 3000 255 ")
    assert of_folder(tmp_path).size == 256
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_damaged_header_is_a_one_line_error(tmp_path: Path, make_images: MakeImages, cut: int) -> None:
    make_images(tmp_path, {"a": 1, "b": 1})
    path = tmp_path / "a" / "000.png"
    content = path.read_bytes()
    for damaged in (content[:cut], content[:cut] + b"\xff" * 20 + content[cut + 20 :]):
        path.write_bytes(damaged)
        told = ""
        try:
            of_folder(tmp_path)
        except UserError as error:
            told = str(error)
        assert not told or told.startswith(f"{path}: ")


def test_heic_file_is_rejected(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "b" / "photo.HEIC").write_bytes(b"")
    line = one_line(tmp_path)
    assert str(tmp_path / "b" / "photo.HEIC") in line
    assert "convert it to JPEG" in line
