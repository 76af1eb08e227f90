"""Settings of the data sources. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

from alexnet_exp.errors import Checks


class Val(Enum):
    """Where validation images come from: split off the training images, the test images themselves, or nowhere."""

    split = "split"
    test = "test"
    none = "none"


class Pca(StrEnum):
    """Whose principal components the colour noise follows: nobody's (no noise), ImageNet's, the training images'."""

    none = "none"
    imagenet = "imagenet"
    fit = "fit"


class PcaReading(StrEnum):
    """What the colour noise is multiplied by: standard deviations (the 2012 code), or eigenvalues (the paper)."""

    code = "code"
    paper = "paper"


class Decode(StrEnum):
    """When image files that are stored larger than 64 are decoded: at each use, or once, into a file in `data.cache`.

    auto: once, where that file takes 8 GB (40,000 images of 256) and a tenth of the free disk, at most.
    """

    auto = "auto"
    once = "once"
    always = "always"


@dataclass
class Data:
    """What every data source has.

    batch_size: images of one step over all ranks; each rank gets its share.
    val, val_fraction: see `Val`; the part of each class's training images that is split off, by the run's seed.
    crop: side of the square cut out, at random in training and at the centre otherwise; null = the network's input
        size, or the whole image where that is smaller. A crop that differs from the input size is resized to it.
    random_crop: whether a training image is cropped at a random place; else at its centre, as in an evaluation.
    pad: zeros put around a training image before its random crop, in pixels.
    mirror: whether a training image is mirrored left to right every other time.
    pca, pca_reading, pca_std: the colour noise of training images, see `Pca` and `PcaReading`; the standard deviation
        of the numbers that are drawn. The code's reading also shrinks an image about the mean one, by 1 + pca_std.
    pca_epochs: the colour noise ends after so many epochs; null = it never ends.
    workers: processes that decode images at each use; null = the CPU cores of this rank, 16 at most; 0 = decode where
        the training runs.
    subset: train on this many images only (stratified, chosen by the seed), for a quick look; null = all.
    """

    name: str = ""
    batch_size: int = 128
    val: Val = Val.split
    val_fraction: float = 0.1
    crop: int | None = None
    random_crop: bool = True
    pad: int = 0
    mirror: bool = False
    pca: Pca = Pca.none
    pca_reading: PcaReading = PcaReading.code
    pca_std: float = 0.1
    pca_epochs: int | None = None
    workers: int | None = None
    subset: int | None = None

    @property
    def has_val(self) -> bool:
        """Whether validation images are asked for."""
        return self.val is not Val.none

    def __post_init__(self) -> None:
        self.checks().done()

    def checks(self) -> Checks:
        """What is wrong with these settings; a subclass adds to it."""
        checks = Checks(self)
        own_name = str(type(self).__dataclass_fields__["name"].default)
        checks.that("name", self.name == own_name, f"must stay {own_name}; choose another source with data=NAME")
        checks.at_least("batch_size", 1)
        checks.that(
            "val_fraction", 0 < self.val_fraction < 1, "must be above 0 and below 1; for none write data.val=none"
        )
        checks.at_least("crop", 1)
        checks.at_least("pad", 0)
        checks.above("pca_std", 0)
        checks.at_least("pca_epochs", 0)
        checks.at_least("workers", 0)
        checks.at_least("subset", 1)
        return checks


@dataclass
class Digits(Data):
    """The 1,797 handwritten digits that scikit-learn ships, 8x8 grey, enlarged once to `size`; 360 are the test."""

    name: str = "digits"
    size: int = 32

    def checks(self) -> Checks:
        checks = super().checks()
        checks.at_least("size", 8)
        return checks


@dataclass
class Cifar(Data):
    """What both CIFAR sets have.

    root: folder with the archive or the folder extracted from it; null = the user's cache folder. Keras's folder is
        looked in next; the archive is downloaded into `root` where neither has it.
    url, md5: what is downloaded if `download`, and its checksum (null: not checked, for a mirror that packed it anew).
    """

    root: str | None = None
    url: str = ""
    md5: str | None = None
    download: bool = True

    def checks(self) -> Checks:
        checks = super().checks()
        web = self.url.startswith(("http://", "https://"))
        checks.that("url", web, "must begin with https:// or http://; put a file that you have into data.root")
        checksum = self.md5 is None or re.fullmatch("[0-9a-f]{32}", self.md5) is not None
        checks.that("md5", checksum, "must be 32 hexadecimal digits, or null for no check")
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

    size: side at which images are stored: the short side is resized to it, the centre square kept. null = the side they
        have, if all have the same one and it is 64 or less; else 256. Up to 64 they are decoded once, into memory.
    decode: whether larger ones are decoded at each use or once, see `Decode`.
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
    """ILSVRC-2012: `train/WNID/*` and `val/` under `root`. Its official validation set is the test here.

    The official val images have no public test labels beside them, so the paper's "val" errors are to be compared with
    `test`; what chooses the best epoch is split off the training images.

    `val/` holds the images as published, all in one folder, or sorted into `val/WNID/*`.
    devkit: folder or .tar.gz of ILSVRC2012_devkit_t12: the labels of a `val/` in one folder, and the classes' words.
        null = looked for in `root`.
    decode: whether images are decoded at each use or once, see `Decode`; all of ILSVRC-2012 takes 262 GB at 256.
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
    """Random pixels and labels, for timing: `n` training images, and an eighth as many for the test."""

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
