"""Provides the settings of the data sources. Does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

from alexnet_exp.errors import Checks


class Val(Enum):
    """Source of the validation images: split off the training images, the test images, or none."""

    split = "split"
    test = "test"
    none = "none"


class Pca(StrEnum):
    """Principal components of the colour noise: none (no noise), those of ImageNet, or of the training images."""

    none = "none"
    imagenet = "imagenet"
    fit = "fit"


class PcaReading(StrEnum):
    """Factors of the colour noise: standard deviations (the 2012 code) or eigenvalues (the paper)."""

    code = "code"
    paper = "paper"


class Decode(StrEnum):
    """When image files with a stored side above 64 are decoded: at each use, or once into a file in `data.cache`.

    auto: once if that file takes at most 8 GB (40,000 images of 256) and at most a tenth of the free disk.
    """

    auto = "auto"
    once = "once"
    always = "always"


@dataclass
class Data:
    """Settings of every data source.

    batch_size: images of one step over all ranks; each rank gets an equal share.
    val: source of the validation images, see `Val`.
    val_fraction: fraction of each class's training images that is split off, chosen by the run's seed.
    crop: side of the square crop in pixels, random in training and central otherwise; null = the network's input size,
        or the whole image if it is smaller. A crop that differs from the input size is resized to it.
    random_crop: crop training images at a random place; false = at the centre, as in an evaluation.
    pad: width in pixels of the zeros around a training image before its random crop.
    mirror: mirror a training image left to right with probability 1/2.
    mirror_alternately: mirror each training image in every second epoch instead, half of the images in the first one.
    pca, pca_reading, pca_std: colour noise of training images, see `Pca` and `PcaReading`, and the standard deviation
        of its random numbers. The reading `code` also scales an image about the mean image by 1 / (1 + pca_std).
    pca_epochs: number of epochs with colour noise; null = all.
    workers: processes that decode images at each use; null = the CPU cores of this rank, at most 16; 0 = decode in the
        training process.
    subset: number of training images to use (stratified, chosen by the seed), for quick tests; null = all.
    """

    name: str = ""
    batch_size: int = 128
    val: Val = Val.split
    val_fraction: float = 0.1
    crop: int | None = None
    random_crop: bool = True
    pad: int = 0
    mirror: bool = False
    mirror_alternately: bool = False
    pca: Pca = Pca.none
    pca_reading: PcaReading = PcaReading.code
    pca_std: float = 0.1
    pca_epochs: int | None = None
    workers: int | None = None
    subset: int | None = None

    @property
    def has_val(self) -> bool:
        """Whether validation images are configured."""
        return self.val is not Val.none

    def __post_init__(self) -> None:
        self.checks().done()

    def checks(self) -> Checks:
        """Returns the checks of these settings; a subclass adds its own."""
        checks = Checks(self)
        own_name = str(type(self).__dataclass_fields__["name"].default)
        checks.that("name", self.name == own_name, f"must be {own_name}; choose another source with data=NAME")
        checks.at_least("batch_size", 1)
        checks.that(
            "val_fraction",
            0 < self.val_fraction < 1,
            "must be above 0 and below 1; write data.val=none for no validation images",
        )
        checks.at_least("crop", 1)
        checks.at_least("pad", 0)
        checks.that("mirror_alternately", self.mirror or not self.mirror_alternately, "needs data.mirror=true")
        checks.above("pca_std", 0)
        checks.at_least("pca_epochs", 0)
        checks.at_least("workers", 0)
        checks.at_least("subset", 1)
        return checks


@dataclass
class Digits(Data):
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey, resized to `size`; 360 of them are the test set."""

    name: str = "digits"
    size: int = 32

    def checks(self) -> Checks:
        checks = super().checks()
        checks.at_least("size", 8)
        return checks


@dataclass
class Cifar(Data):
    """Settings of both CIFAR data sets.

    root: folder with the archive or its extracted folder; null = the user's cache folder. Keras's folder is searched
        next; if neither has the data, the archive is downloaded into `root`.
    url, md5: address and checksum of the archive (null = not checked, for a mirror with a repacked archive).
    download: allow the download.
    """

    root: str | None = None
    url: str = ""
    md5: str | None = None
    download: bool = True

    def checks(self) -> Checks:
        checks = super().checks()
        web = self.url.startswith(("http://", "https://"))
        checks.that("url", web, "must begin with https:// or http://; put an existing file into data.root")
        checksum = self.md5 is None or re.fullmatch("[0-9a-f]{32}", self.md5) is not None
        checks.that("md5", checksum, "must be 32 hexadecimal digits, or null to skip the check")
        return checks


@dataclass
class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 colour images, 32x32, 10 classes."""

    name: str = "cifar10"
    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    md5: str | None = "c58f30108f718f92721af3b95e74349a"
    pad: int = 4
    mirror: bool = True


@dataclass
class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images, 32x32, 100 (fine) classes."""

    name: str = "cifar100"
    url: str = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    md5: str | None = "eb9058c3a382ffc7106e4002c42a8d85"
    pad: int = 4
    mirror: bool = True


@dataclass
class Folder(Data):
    """A folder of images: `train/CLASS/*` with `val/` and `test/` optional, or `CLASS/*` alone.

    size: stored side in pixels: the short side is resized to it and the central square is cut out. null = the side of
        the images if all have the same one of at most 64, else 256. Up to 64 they are decoded once, into memory.
    decode: when larger images are decoded, see `Decode`.
    cache: folder of decoded images; null = the user's cache folder.
    """

    name: str = "folder"
    root: str | None = None
    size: int | None = None
    decode: Decode = Decode.auto
    cache: str | None = None
    mirror: bool = True

    def checks(self) -> Checks:
        checks = super().checks()
        checks.at_least("size", 1)
        return checks


@dataclass
class ImageNet(Data):
    """ILSVRC-2012: `train/WNID/*` and `val/` under `root`. Its official validation set is the test set here.

    The labels of the official test set are not public, so the paper reports errors on the official validation set.
    Compare them with `test`. The validation set, which selects the best epoch, is split off the training images.

    `val/` contains the images as published, all in one folder, or sorted into `val/WNID/*`.
    devkit: folder or .tar.gz of ILSVRC2012_devkit_t12, with the labels of a flat `val/` and the words of the classes;
        null = searched for in `root`.
    size: stored side in pixels, as for a folder.
    decode: when images are decoded, see `Decode`; all of ILSVRC-2012 takes 262 GB at 256.
    cache: folder of decoded images; null = the user's cache folder.
    """

    name: str = "imagenet"
    root: str | None = None
    devkit: str | None = None
    size: int = 256
    decode: Decode = Decode.auto
    cache: str | None = None
    val_fraction: float = 0.01
    mirror: bool = True

    def checks(self) -> Checks:
        checks = super().checks()
        checks.at_least("size", 1)
        return checks


@dataclass
class Random(Data):
    """Random pixels and labels, for timing: `n` training images and n / 8 test images."""

    name: str = "random"
    size: int = 224
    channels: int = 3
    classes: int = 1000
    n: int = 1024

    def checks(self) -> Checks:
        checks = super().checks()
        checks.at_least("size", 1)
        checks.that("channels", self.channels in (1, 3), "must be 1 (grey) or 3 (colour)")
        checks.at_least("classes", 2)
        checks.that("classes", self.classes <= 1_000_000, "must be at most 1000000")
        checks.at_least("n", 8)
        return checks


DATA_SPECS: dict[str, type[Data]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "folder": Folder,
    "imagenet": ImageNet,
    "random": Random,
}
