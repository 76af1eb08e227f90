"""The cache of decoded images: content, reuse, and its renewal after a file changes."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
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
from alexnet_exp.data.cache import load_decoded, open_cache
from alexnet_exp.data.decode import read_image
from alexnet_exp.data.image_files import FileStamp, ImageFiles, list_files
from alexnet_exp.data.memmap import MappedImages
from alexnet_exp.data.source import open_source
from alexnet_exp.data.spec import Decode, Folder, ImageNet
from alexnet_exp.data.split import CachedSplit, ResidentSplit, StreamedSplit
from alexnet_exp.errors import UserError
from alexnet_exp.paths import cache_folder

BOTH = (Decode.once, Decode.always)


@pytest.fixture
def files(tmp_path: Path, make_images: Callable[..., Path]) -> ImageFiles:
    return list_files(make_images(tmp_path / "images", {"a": 3, "b": 2}, (8, 8)), ["a", "b"])


def test_cache_contains_the_pixels_in_file_order(files: ImageFiles, tmp_path: Path) -> None:
    expected = np.stack([np.array(Image.open(path)).transpose(2, 0, 1) for path in files.paths()])
    assert np.array_equal(load_decoded(files, 8, tmp_path / "cache").numpy(), expected)
    (file,) = (tmp_path / "cache").iterdir()
    for mode in (None, "r"):
        assert np.array_equal(np.load(file, mmap_mode=mode), expected), "a plain .npy file to others"


def test_cache_is_read_without_decoding(files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_decoded(files, 8, tmp_path / "cache")
    monkeypatch.setattr(cache, "read_images", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(load_decoded(files, 8, tmp_path / "cache"), first)


@pytest.mark.parametrize("change", ["touched", "replaced", "removed"])
def test_cache_is_recreated_after_a_file_changes(files: ImageFiles, tmp_path: Path, change: str) -> None:
    load_decoded(files, 8, tmp_path / "cache")
    before = set((tmp_path / "cache").glob("*.npy"))
    path = Path(files.paths()[1])
    if change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "replaced":
        Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    else:
        path.unlink()
    now = list_files(files.folder, ["a", "b"])
    images = load_decoded(now, 8, tmp_path / "cache")
    assert len(images) == len(now.names)
    if change == "replaced":
        assert images[1, :, 0, 0].tolist() == [1, 2, 3]
    # the stale file is deleted
    after = set((tmp_path / "cache").glob("*.npy"))
    assert len(after) == 1
    assert after != before


def test_other_sizes_and_folders_have_their_own_cache_file(
    files: ImageFiles, tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    other = list_files(make_images(tmp_path / "more" / "images", {"a": 1, "b": 1}, (8, 8)), ["a", "b"])
    for asked, size in ((files, 8), (files, 4), (other, 8)):
        assert load_decoded(asked, size, tmp_path / "cache").shape == (len(asked.names), 3, size, size)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


def test_unreadable_image_leaves_no_cache_file(files: ImageFiles, tmp_path: Path) -> None:
    Path(files.paths()[3]).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b.000\.png: unreadable image"):
        load_decoded(files, 8, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_error_names_the_read_only_folder(files: ImageFiles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"data\.cache=.*file.*not usable .* write another data\.cache=FOLDER"):
        load_decoded(files, 8, tmp_path / "file")


def test_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("~/x") == tmp_path / "home" / "x"
    assert cache_folder(None) == tmp_path / "cache" / "alexnet_exp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "alexnet_exp"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limits the files of this process to `size` bytes, which has the effect of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_no_cache_file(files: ImageFiles, tmp_path: Path) -> None:
    with files_of_at_most(600), pytest.raises(UserError, match=r"not usable \(File too large\)"):
        load_decoded(files, 8, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(load_decoded(files, 8, tmp_path / "cache")) == 5


def test_truncated_cache_is_recreated(files: ImageFiles, tmp_path: Path) -> None:
    images = load_decoded(files, 8, tmp_path / "cache").clone()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(load_decoded(files, 8, tmp_path / "cache"), images)


def test_existing_cache_is_read_in_a_read_only_folder(
    files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_decoded(files, 8, tmp_path / "cache").clone()

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(cache, "file_lock", refused)
    assert torch.equal(load_decoded(files, 8, tmp_path / "cache"), images)
    with pytest.raises(UserError, match="Read-only file system"):
        load_decoded(files, 4, tmp_path / "cache")
    array, how = open_cache(files, 4, Decode.auto, tmp_path / "cache")
    assert array is None
    assert "Read-only file system" in how


def pixels(files: ImageFiles) -> Tensor:
    return torch.from_numpy(np.stack([np.array(Image.open(path)).transpose(2, 0, 1) for path in files.paths()]))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of images of each decoding."""
    read_images, numbers = cache.read_images, list[int]()

    def counted(asked_for: Sequence[tuple[str, FileStamp]], size: int, doing: str) -> Iterator[Tensor]:
        numbers.append(len(asked_for))
        return read_images(asked_for, size, doing)

    monkeypatch.setattr(cache, "read_images", counted)
    return numbers


KILLED = """
import os, signal, sys
from pathlib import Path
from alexnet_exp.data import cache
from alexnet_exp.data.image_files import list_files
read_images = cache.read_images
def until(*arguments):
    for number, image in enumerate(read_images(*arguments)):
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield image
cache.read_images = until
cache.load_decoded(list_files(Path(sys.argv[1]), ["a", "b"]), 8, Path(sys.argv[2]))
"""


@pytest.fixture
def killed_writer(files: ImageFiles, tmp_path: Path) -> Callable[[int], None]:
    """`killed_writer(n)`: a process that writes the cache and is killed after n images."""

    def run(images: int) -> None:
        command = [sys.executable, "-c", KILLED, str(files.folder), str(tmp_path / "cache"), str(images)]
        assert subprocess.run(command).returncode == -signal.SIGKILL

    return run


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 4])
def test_cache_of_a_killed_writer_is_continued(
    files: ImageFiles, tmp_path: Path, killed_writer: Callable[[int], None], asked: list[int], at: int
) -> None:
    killed_writer(at)
    assert not list((tmp_path / "cache").glob("*.npy")), "what is not whole has another name"
    assert torch.equal(load_decoded(files, 8, tmp_path / "cache"), pixels(files))
    # the system has all but the last 8 kB, which the process had buffered
    assert len(asked) == 1
    assert 5 - at <= asked[0] <= 5
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("at", [0, 1, 3, 4])
@pytest.mark.parametrize("damage", ["", "flipped", "header", "sums", "longer", "no sums"])
def test_interrupted_cache_is_continued_after_its_last_valid_image(
    files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int], at: int, damage: str
) -> None:
    with monkeypatch.context() as patch:
        read_images = cache.read_images

        def interrupted(*arguments: object) -> Iterator[Tensor]:
            for number, image in enumerate(read_images(*arguments)):  # type: ignore[arg-type]
                if number == at:
                    raise KeyboardInterrupt
                yield image

        patch.setattr(cache, "read_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_decoded(files, 8, tmp_path / "cache")
    asked.clear()
    (part,) = (tmp_path / "cache").glob("*.part")
    (sums,) = (tmp_path / "cache").glob("*.sums")
    image_bytes = 3 * 8 * 8
    header = part.stat().st_size - at * image_bytes
    whole = at
    if damage == "flipped" and at:
        flip(part, header + (at - 1) * image_bytes + 5)
        whole = at - 1
    elif damage == "header":
        flip(part, 3)
        whole = 0
    elif damage == "sums" and at:
        flip(sums, 1)
        whole = 0
    elif damage == "longer":
        with part.open("ab") as file:
            file.write(bytes(100))
        with sums.open("ab") as file:
            file.write(bytes(6))
    elif damage == "no sums":
        sums.unlink()
        whole = 0
    images = load_decoded(files, 8, tmp_path / "cache")
    assert asked == [5 - whole]
    assert torch.equal(images, pixels(files))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def flip(path: Path, at: int) -> None:
    """Flips one bit of byte `at` of the file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_one_of_two_threads_decodes(files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_images, calls = cache.read_images, []

    def counted(*arguments: object) -> Iterator[Tensor]:
        calls.append(arguments)
        return read_images(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "read_images", counted)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: load_decoded(files, 8, tmp_path / "cache"), range(4)))
    assert len(calls) == 1
    assert all(torch.equal(images, found[0]) for images in found)
    assert len(list((tmp_path / "cache").iterdir())) == 1


FILL = """
import sys
from pathlib import Path
from alexnet_exp.data.cache import load_decoded
from alexnet_exp.data.image_files import list_files
print(flush=True)
sys.stdin.readline()
print(int(load_decoded(list_files(Path(sys.argv[1]), ["a", "b"]), 8, Path(sys.argv[2])).long().sum()))
"""


@pytest.mark.slow
def test_two_processes_create_one_cache(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    many = list_files(make_images(tmp_path / "many", {"a": 200, "b": 200}, (8, 8)), ["a", "b"])
    command = [sys.executable, "-c", FILL, str(many.folder), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # all imports are done
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    sums = [int(process.communicate()[0]) for process in processes]
    assert sums == [int(pixels(many).long().sum())] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_decode_setting_controls_caching(files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "yet"
    assert open_cache(files, 8, Decode.always, folder)[0] is None
    assert not folder.exists()
    # 960 bytes: at most a tenth of the free disk, the limit of auto
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9000))
    array, how = open_cache(files, 8, Decode.auto, folder)
    assert array is None
    assert "decoded at each use" in how
    assert open_cache(files, 8, Decode.once, folder)[0] is not None
    # an existing cache needs no space
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=900))
    assert open_cache(files, 8, Decode.auto, folder)[0] is not None
    with pytest.raises(UserError, match=r"^data\.decode=once: .* free in .*; write data\.cache=FOLDER .*data\.decode"):
        open_cache(files, 9, Decode.once, folder)


def test_disk_that_fills_up_while_decoding(files: ImageFiles, tmp_path: Path) -> None:
    with files_of_at_most(600):
        array, how = open_cache(files, 8, Decode.auto, tmp_path / "cache")
        assert array is None
        assert "decoded at each use (data.cache=" in how
        with pytest.raises(UserError, match="not usable"):
            open_cache(files, 8, Decode.once, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def large(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    for seed, part in enumerate(("train", "val")):
        make_images(tmp_path / "large" / part, {"a": 6, "b": 5}, (90, 70), seed)
    return tmp_path / "large"


@pytest.mark.parametrize("kind", [Folder, ImageNet])
def test_cached_images_equal_decoded_images(large: Path, kind: type[Folder | ImageNet]) -> None:
    once, always = (open_source(kind(root=str(large), size=66, decode=way, subset=8), 1) for way in BOTH)
    assert once.fingerprint == always.fingerprint
    assert (once.classes, len(once.train)) == (always.classes, 8)
    for ours, theirs in ((once.train, always.train), (once.val, always.val)):
        assert isinstance(ours, CachedSplit)
        assert isinstance(theirs, StreamedSplit)
        assert not isinstance(theirs, CachedSplit)
        everything = torch.arange(len(theirs)).flip(0)
        assert torch.equal(ours.images(everything), theirs.images(everything))
        assert torch.equal(ours.labels, theirs.labels)
        for got, wanted in zip(ours.statistics(), theirs.statistics(), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
    assert "decoded once into" in once.reading
    assert "(data.decode=always)" in always.reading


def test_statistics_of_cached_images_equal_those_of_streamed_images(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_exp.data.split.STATISTICS_SAMPLE", 3)
    once, always = (open_source(ImageNet(root=str(large), size=66, decode=way), 1).train for way in BOTH)
    assert torch.equal(once.statistics().pixel_mean, always.statistics().pixel_mean)


def test_splits_of_a_source_share_its_array(large: Path) -> None:
    source = open_source(ImageNet(root=str(large), size=66, subset=8), 1)
    assert isinstance(source.train, CachedSplit)
    assert isinstance(source.val, CachedSplit)
    assert source.train.array.data_ptr() == source.val.array.data_ptr()


def private_and_shared(address: int) -> tuple[int, int]:
    """Returns the private and the shared resident bytes of the mapping at `address`."""
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
def test_two_processes_share_pages_of_the_cache(tmp_path: Path) -> None:
    size = 64 * 3 * 128 * 128
    np.save(tmp_path / "images.npy", np.ones((64, 3, 128, 128), dtype=np.uint8))
    array = MappedImages(tmp_path / "images.npy", (64, 3, 128, 128), 128).array
    images = ResidentSplit(array, torch.zeros(64, dtype=torch.long))
    parts = images.select(torch.arange(0, 64, 2)), images.select(torch.arange(1, 64, 2))  # as train and validation
    for part in parts:
        part.images(torch.arange(32)).sum()
    command = [sys.executable, "-c", TOUCH, str(tmp_path / "images.npy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()  # it has read every page
        private, shared = private_and_shared(parts[0].array.data_ptr() + 4096)
        other.communicate()
    assert shared >= size
    assert private <= 2 * 4096  # the page with the header may be private


# The header of these small files: a multiple of 64 bytes.
HEADER = 128


@pytest.mark.parametrize("where", ["header", "first pixel", "last pixel", "checksum"])
@pytest.mark.parametrize("writable", [True, False])
def test_damaged_cache_is_never_used(
    files: ImageFiles,
    tmp_path: Path,
    where: str,
    writable: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = load_decoded(files, 8, tmp_path / "cache").clone()
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    at = {"header": 40, "first pixel": HEADER, "last pixel": HEADER + images.numel() - 1, "checksum": len(whole) - 3}
    flip(file, at[where])
    if not writable:
        open_it = Path.open
        monkeypatch.setattr(Path, "open", lambda path, mode="r", *a, **k: open_it(path, refused(mode), *a, **k))
    if where == "header" and not writable:
        with pytest.raises(UserError, match="not usable"):
            load_decoded(files, 8, tmp_path / "cache")
        return
    assert torch.equal(load_decoded(files, 8, tmp_path / "cache"), images)
    monkeypatch.undo()
    assert (file.read_bytes() == whole) == writable
    assert len(caplog.records) == (where != "header")
    assert all(f"{file}: image" in record.message and "\n" not in record.message for record in caplog.records)


def refused(mode: str) -> str:
    """Returns `mode` unless it is for writing, as in a folder of another user."""
    if mode in ("r+b", "a+b"):
        raise PermissionError(13, "Permission denied")
    return mode


def test_cache_of_another_version_is_not_read(
    files: ImageFiles, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_decoded(files, 8, tmp_path / "cache")
    before = set((tmp_path / "cache").iterdir())
    monkeypatch.setattr(cache, "DECODER_VERSION", "0")
    load_decoded(files, 8, tmp_path / "cache")
    assert asked == [5, 5]
    assert set((tmp_path / "cache").iterdir()).isdisjoint(before)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Runs the block as another user, because root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_unreadable_cache_is_an_error_or_decoded_at_each_use(files: ImageFiles, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "cache"
    load_decoded(files, 8, folder)
    (file,) = folder.iterdir()
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o055)  # folders of pytest are private
    (file if what == "file" else folder).chmod(0)
    said = r"data\.cache=.*: not usable \(Permission denied\); write another data\.cache=FOLDER"
    try:
        with as_nobody():
            for ask in (lambda: load_decoded(files, 8, folder), lambda: open_cache(files, 8, Decode.once, folder)):
                with pytest.raises(UserError, match=said):
                    ask()
            array, how = open_cache(files, 8, Decode.auto, folder)
        assert array is None
        assert "Permission denied" in how
    finally:
        folder.chmod(0o755)


@pytest.fixture
def kept_split(large: Path) -> CachedSplit:
    split = open_source(ImageNet(root=str(large), size=66, decode=Decode.once), 1).test
    assert isinstance(split, CachedSplit)
    return split


def test_damaged_cached_image_is_decoded_again_at_its_use(
    kept_split: CachedSplit, caplog: pytest.LogCaptureFixture
) -> None:
    truth = torch.stack([read_image(path, 66) for path in kept_split.paths])
    file = kept_split.cache.path
    whole = file.read_bytes()
    for row in (2, 5, 6):
        flip(file, HEADER + row * 3 * 66 * 66 + 77)
    picked = kept_split.select(torch.tensor([6, 0, 5]))
    assert not torch.equal(picked.array[picked.rows], truth[[6, 0, 5]]), "damaged, and mapped"
    assert torch.equal(picked.images(torch.tensor([2, 1, 0, 0])), truth[[5, 0, 6, 6]])
    assert len(caplog.records) == 1, "of many, one is told"
    # the statistics use repaired images too
    assert torch.equal(kept_split.statistics().pixel_mean, truth.double().mean(0).float())
    assert file.read_bytes() == whole, "mended for those who come later"


def test_damaged_cached_image_with_a_changed_file_is_rejected(kept_split: CachedSplit) -> None:
    flip(kept_split.cache.path, HEADER + 2 * 3 * 66 * 66)
    os.utime(kept_split.paths[2], ns=(1, 1))
    with pytest.raises(UserError) as error:
        kept_split.images(torch.tensor([2]))
    assert str(error.value).startswith(f"{kept_split.paths[2]}: has changed since the data was opened")
    with pytest.raises(UserError):  # still not used
        kept_split.check()
    assert len(kept_split.images(torch.tensor([1, 3]))) == 2


def test_file_that_changes_during_decoding_is_rejected(files: ImageFiles, tmp_path: Path) -> None:
    assert files.stamps
    Image.new("RGB", (8, 8), (1, 2, 3)).save(files.paths()[3])
    with pytest.raises(UserError, match=r"b.000\.png: has changed since the data was opened"):
        load_decoded(files, 8, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
