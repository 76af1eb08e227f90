"""The cache of decoded images: right, used again, made anew when the files change."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alexnet_exp.data import cache
from alexnet_exp.data.cache import decoded, kept
from alexnet_exp.data.listing import Files, list_files
from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import Decode, Folder, ImageNet
from alexnet_exp.data.split import Kept, Resident, Streamed
from alexnet_exp.settings import UserError
from alexnet_exp.user_cache import cache_folder

BOTH = (Decode.once, Decode.always)


@pytest.fixture
def files(tmp_path: Path, make_images: Callable[..., Path]) -> Files:
    return list_files(make_images(tmp_path / "images", {"a": 3, "b": 2}, (8, 8)), ["a", "b"])


def test_holds_the_pixels_in_the_order_of_the_files(files: Files, tmp_path: Path) -> None:
    expected = np.stack([np.array(Image.open(path)).transpose(2, 0, 1) for path in files.paths()])
    assert np.array_equal(decoded(files, 8, tmp_path / "cache").numpy(), expected)
    (file,) = (tmp_path / "cache").iterdir()
    assert np.array_equal(np.load(file), expected)


def test_is_read_without_decoding_again(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoded(files, 8, tmp_path / "cache")
    monkeypatch.setattr(cache, "read_images", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(decoded(files, 8, tmp_path / "cache"), first)


@pytest.mark.parametrize("change", ["touched", "replaced", "removed"])
def test_is_made_anew_when_a_file_changed(files: Files, tmp_path: Path, change: str) -> None:
    decoded(files, 8, tmp_path / "cache")
    before = set((tmp_path / "cache").glob("*.npy"))
    path = Path(files.paths()[1])
    if change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "replaced":
        Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    else:
        path.unlink()
    now = list_files(files.folder, ["a", "b"])
    images = decoded(now, 8, tmp_path / "cache")
    assert len(images) == len(now.names)
    if change == "replaced":
        assert images[1, :, 0, 0].tolist() == [1, 2, 3]
    # the stale file is gone
    after = set((tmp_path / "cache").glob("*.npy"))
    assert len(after) == 1
    assert after != before


def test_another_size_or_folder_has_its_own_file(
    files: Files, tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    other = list_files(make_images(tmp_path / "more" / "images", {"a": 1, "b": 1}, (8, 8)), ["a", "b"])
    for asked, size in ((files, 8), (files, 4), (other, 8)):
        assert decoded(asked, size, tmp_path / "cache").shape == (len(asked.names), 3, size, size)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


def test_a_broken_image_leaves_no_file(files: Files, tmp_path: Path) -> None:
    Path(files.paths()[3]).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b.000\.png: not an image"):
        decoded(files, 8, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"data\.cache=.*file.*cannot be written .* write data\.cache=FOLDER"):
        decoded(files, 8, tmp_path / "file")


def test_lies_where_the_user_keeps_such_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("~/x") == tmp_path / "home" / "x"
    assert cache_folder(None) == tmp_path / "cache" / "alexnet_exp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "alexnet_exp"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: what a full disk looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_file(files: Files, tmp_path: Path) -> None:
    with files_of_at_most(600), pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
        decoded(files, 8, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(decoded(files, 8, tmp_path / "cache")) == 5


def test_a_shortened_file_is_made_anew(files: Files, tmp_path: Path) -> None:
    images = decoded(files, 8, tmp_path / "cache").clone()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(decoded(files, 8, tmp_path / "cache"), images)


def test_a_file_that_stands_is_read_where_nothing_can_be_written(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = decoded(files, 8, tmp_path / "cache").clone()

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(cache, "_held", refused)
    assert torch.equal(decoded(files, 8, tmp_path / "cache"), images)
    with pytest.raises(UserError, match="Read-only file system"):
        decoded(files, 4, tmp_path / "cache")
    array, how = kept(files, 4, Decode.auto, tmp_path / "cache")
    assert array is None
    assert "Read-only file system" in how


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupted_one_is_continued_from_what_was_on_the_disk(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Two images are synced at once here; image number `at` is the one that a Ctrl-C meets."""
    monkeypatch.setattr(cache, "SYNC_BYTES", 2 * 3 * 8 * 8)
    read_images = cache.read_images
    asked: list[int] = []

    def interrupted(paths: Sequence[str], size: int, doing: str) -> Iterator[Tensor]:
        for number, image in enumerate(read_images(paths, size, doing)):
            if number == at:
                raise KeyboardInterrupt
            yield image

    def counted(paths: Sequence[str], size: int, doing: str) -> Iterator[Tensor]:
        asked.append(len(paths))
        return read_images(paths, size, doing)

    monkeypatch.setattr(cache, "read_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoded(files, 8, tmp_path / "cache")
    monkeypatch.setattr(cache, "read_images", counted)
    images = decoded(files, 8, tmp_path / "cache")
    # a block counts once something of the next one stands behind it
    assert asked == [5 if at <= 2 else 3]
    assert np.array_equal(images, np.stack([np.array(Image.open(p)).transpose(2, 0, 1) for p in files.paths()]))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_of_two_that_want_it_one_decodes(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_images, calls = cache.read_images, []

    def counted(*arguments: object) -> Iterator[Tensor]:
        calls.append(arguments)
        return read_images(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "read_images", counted)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: decoded(files, 8, tmp_path / "cache"), range(4)))
    assert len(calls) == 1
    assert all(torch.equal(images, found[0]) for images in found)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_kept_or_not_as_asked(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "yet"
    assert kept(files, 8, Decode.always, folder)[0] is None
    assert not folder.exists()
    # 960 bytes: no more than a tenth of the free disk, for auto
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9000))
    array, how = kept(files, 8, Decode.auto, folder)
    assert array is None
    assert "decoded at each use" in how
    assert kept(files, 8, Decode.once, folder)[0] is not None
    # what stands needs no room
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=900))
    assert kept(files, 8, Decode.auto, folder)[0] is not None
    with pytest.raises(UserError, match=r"^data\.decode=once: .* free in .*; write data\.cache=FOLDER .*data\.decode"):
        kept(files, 9, Decode.once, folder)


def test_a_disk_that_fills_up_meanwhile(files: Files, tmp_path: Path) -> None:
    with files_of_at_most(600):
        array, how = kept(files, 8, Decode.auto, tmp_path / "cache")
        assert array is None
        assert "decoded at each use (data.cache=" in how
        with pytest.raises(UserError, match="cannot be written"):
            kept(files, 8, Decode.once, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def large(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    for seed, part in enumerate(("train", "val")):
        make_images(tmp_path / "large" / part, {"a": 6, "b": 5}, (90, 70), seed)
    return tmp_path / "large"


@pytest.mark.parametrize("kind", [Folder, ImageNet])
def test_kept_images_are_the_decoded_ones_to_all_who_ask(large: Path, kind: type[Folder | ImageNet]) -> None:
    once, always = (open_source(kind(root=str(large), size=66, decode=way, subset=8), 1) for way in BOTH)
    assert once.fingerprint == always.fingerprint
    assert (once.classes, len(once.train)) == (always.classes, 8)
    for ours, theirs in ((once.train, always.train), (once.val, always.val)):
        assert isinstance(ours, Kept)
        assert isinstance(theirs, Streamed)
        assert not isinstance(theirs, Kept)
        everything = torch.arange(len(theirs)).flip(0)
        assert torch.equal(ours.images(everything), theirs.images(everything))
        assert torch.equal(ours.labels, theirs.labels)
        for got, wanted in zip(ours.statistics(), theirs.statistics(), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
    assert "decoded once, into" in once.reading
    assert "as data.decode=always asks" in always.reading


def test_statistics_of_kept_images_are_of_the_files_that_streaming_measures(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_exp.data.split.STATISTICS_SAMPLE", 3)
    once, always = (open_source(ImageNet(root=str(large), size=66, decode=way), 1).train for way in BOTH)
    assert torch.equal(once.statistics().pixel_mean, always.statistics().pixel_mean)


def test_parts_of_a_source_share_its_array(large: Path) -> None:
    source = open_source(ImageNet(root=str(large), size=66, subset=8), 1)
    assert isinstance(source.train, Kept)
    assert isinstance(source.val, Kept)
    assert source.train.array.data_ptr() == source.val.array.data_ptr()


def private_and_shared(address: int) -> tuple[int, int]:
    """Bytes of the mapping at `address` that only this process has in memory, and that several have."""
    kinds = {"Private": 0, "Shared": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and (found := re.match(r"(Private|Shared)_(?:Clean|Dirty): +(\d+) kB", line)):
            kinds[found[1]] += int(found[2]) * 1024
    return kinds["Private"], kinds["Shared"]


TOUCH = "import sys, numpy; a = numpy.load(sys.argv[1], mmap_mode='c'); a.sum(); print(flush=True); sys.stdin.read()"


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells who shares a page")
def test_two_processes_share_the_pages(tmp_path: Path) -> None:
    size = 64 * 3 * 128 * 128
    np.save(tmp_path / "images.npy", np.ones((64, 3, 128, 128), dtype=np.uint8))
    images = Resident(cache.mapped(tmp_path / "images.npy"), torch.zeros(64, dtype=torch.long))
    parts = images.select(torch.arange(0, 64, 2)), images.select(torch.arange(1, 64, 2))  # as train and validation
    for part in parts:
        part.images(torch.arange(32)).sum()
    command = [sys.executable, "-c", TOUCH, str(tmp_path / "images.npy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()  # it has every page
        private, shared = private_and_shared(parts[0].array.data_ptr() + 4096)
        other.communicate()
    assert shared >= size
    assert private <= 2 * 4096  # the page of the file's header may be this process's own
