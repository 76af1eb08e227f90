"""CIFAR from small archives of the official form: search, download, safe reading."""

from __future__ import annotations

import codecs
import copyreg
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from alexnet_exp.data import cifar
from alexnet_exp.data.cifar import open_cifar
from alexnet_exp.data.spec import Cifar10, Cifar100
from alexnet_exp.errors import UserError

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
PIXELS = {name: np.random.default_rng(i).integers(0, 256, (4, 3072), dtype=np.uint8) for i, name in enumerate(NAMES)}
LABELS = {name: [(4 * i + j) % 10 for j in range(4)] for i, name in enumerate(NAMES)}


class Python2Pickler(pickle._Pickler):
    """Pickles text and bytes like byte strings of Python 2, as in the official archives."""

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}


def python2(batch: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(batch)
    # numpy's name for the module until its version 2
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def batches(dump: Callable[[object], bytes] = python2) -> dict[str, bytes]:
    return {name: dump({"data": PIXELS[name], "labels": LABELS[name]}) for name in NAMES}


def write_archive(path: Path, members: dict[str, bytes], inside: str = "cifar-10-batches-py") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_folder(path: Path, members: dict[str, bytes]) -> None:
    path.mkdir(parents=True)
    for name, content in members.items():
        (path / name).write_bytes(content)


def spec(root: Path, **settings: object) -> Cifar10:
    return Cifar10(root=str(root), **{"download": False, **settings})  # type: ignore[arg-type]


def assert_right(found: Cifar10) -> None:
    source = open_cifar(found)
    assert source.test is not None
    assert np.array_equal(
        source.train.images(torch.arange(20)), np.concatenate([PIXELS[n] for n in NAMES[:5]]).reshape(-1, 3, 32, 32)
    )
    assert source.train.labels.tolist() == [label for name in NAMES[:5] for label in LABELS[name]]
    assert np.array_equal(source.test.images(torch.arange(4)), PIXELS["test_batch"].reshape(-1, 3, 32, 32))
    assert (source.classes[0], source.train.shape) == ("airplane", (3, 32, 32))


def failure(found: Cifar10) -> str:
    with pytest.raises(UserError) as error:
        open_cifar(found)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_archive_in_the_root_is_read(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "root" / "cifar-10-python.tar.gz", batches())
    assert_right(spec(tmp_path / "root"))
    assert_right(spec(path))
    # nothing was extracted
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-python.tar.gz"]


def test_archive_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "root" / "cifar-10-python.tar.gz", batches())
    first = open_cifar(spec(tmp_path / "root"))
    with monkeypatch.context() as patched:
        patched.setattr(cifar, "read_batches", lambda *_: pytest.fail("unpacked again"))
        again = open_cifar(spec(tmp_path / "root"))
        assert_right(spec(tmp_path / "root"))
        assert again.fingerprint == first.fingerprint
        os.utime(path, ns=(1, 1))
        with pytest.raises(pytest.fail.Exception, match="unpacked again"):
            open_cifar(spec(tmp_path / "root"))


@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed"])
def test_damaged_cache_file_is_recreated(tmp_path: Path, damage: str) -> None:
    write_archive(tmp_path / "root" / "cifar-10-python.tar.gz", batches())
    assert_right(spec(tmp_path / "root"))
    (file,) = (tmp_path / "cache" / "alexnet_exp").glob("*-train.npy")
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100] if damage == "truncated" else b"")
    assert_right(spec(tmp_path / "root"))


def test_images_are_in_memory_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "root" / "cifar-10-python.tar.gz", batches())
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_right(spec(tmp_path / "root"))
    assert "is not writable" in open_cifar(spec(tmp_path / "root")).reading


def test_extracted_folder_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar-10-batches-py", batches())
    assert_right(spec(tmp_path))
    assert_right(spec(tmp_path / "cifar-10-batches-py"))


@pytest.mark.parametrize("name", ["cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive"])
def test_archive_of_keras_is_found(tmp_path: Path, name: str) -> None:
    write_archive(tmp_path / "home" / ".keras" / "datasets" / name, batches())
    assert_right(spec(tmp_path / "root"))


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"])
def test_folder_of_keras_is_found(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    write_folder(tmp_path / "keras" / "datasets" / name, batches())
    assert_right(spec(tmp_path / "root"))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_batches_pickled_by_python_3_are_read(tmp_path: Path, protocol: int) -> None:
    write_folder(tmp_path / "cifar-10-batches-py", batches(functools.partial(pickle.dumps, protocol=protocol)))
    assert_right(spec(tmp_path))


def test_incomplete_folder_is_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar-10-batches-py", {"data_batch_1": b""})
    write_archive(tmp_path / "cifar-10-python.tar.gz", batches())
    assert_right(spec(tmp_path))


def test_cifar100_reads_the_fine_labels(tmp_path: Path) -> None:
    def batch(labels: list[int]) -> bytes:
        return python2({"data": PIXELS["test_batch"], "fine_labels": labels, "coarse_labels": [0] * 4})

    members = {"train": batch([99, 1, 2, 3]), "test": batch([5, 6, 7, 8])}
    write_archive(tmp_path / "cifar-100-python.tar.gz", members, "cifar-100-python")
    source = open_cifar(Cifar100(root=str(tmp_path), download=False))
    assert source.train.labels.tolist() == [99, 1, 2, 3]
    assert source.classes[99] == "worm"


def test_error_without_download_names_the_file_to_place(tmp_path: Path) -> None:
    line = failure(spec(tmp_path))
    assert f"put cifar-10-python.tar.gz from {Cifar10().url} into {tmp_path}" in line


class Opens:
    """Pickles to a call that would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("place", ["folder", "archive"])
def test_pickle_with_code_is_rejected(tmp_path: Path, place: str) -> None:
    evil = batches() | {"data_batch_3": python2({"data": Opens(tmp_path / "ran"), "labels": []})}
    if place == "folder":
        write_folder(tmp_path / "cifar-10-batches-py", evil)
    else:
        write_archive(tmp_path / "cifar-10-python.tar.gz", evil)
    assert "it refers to" in failure(spec(tmp_path))
    assert not (tmp_path / "ran").exists()


class Calls:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "function",
    [getattr, eval, __import__, codecs.encode, copyreg._reconstructor, np.save, np.lib.format.read_array, os.system],
)
def test_pickle_with_other_functions_is_rejected(function: Callable[..., object], tmp_path: Path) -> None:
    """Functions by which known exploits of restricted unpicklers reach a shell."""
    batch = pickle.dumps({"data": Calls(function, str(tmp_path / "ran")), "labels": [0]}, protocol=2)
    write_folder(tmp_path / "cifar-10-batches-py", batches() | {"data_batch_1": batch})
    assert "it refers to" in failure(spec(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["os\nsystem", "numpy\nndarray.__class__", "numpy.core.multiarray\nscalar", "numpy\nload"]
)
@pytest.mark.parametrize("protocol", [0, 4])
def test_pickle_with_disguised_names_is_rejected(name: str, protocol: int, tmp_path: Path) -> None:
    module, _, attribute = name.partition("\n")
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute)]
    found = f"c{name}\n".encode() if protocol == 0 else b"\x80\x04" + b"".join(texts) + b"\x93"
    write_folder(tmp_path / "cifar-10-batches-py", batches() | {"data_batch_1": found + b"."})
    assert f"it refers to {module}.{attribute}" in failure(spec(tmp_path))


def test_nested_lists_of_labels_are_rejected(tmp_path: Path) -> None:
    """Twelve nested lists with ten references each: a trillion numbers in a few bytes."""
    labels: list[object] = [0] * 10
    for _ in range(12):
        labels = [labels] * 10
    batch = pickle.dumps({"data": PIXELS["test_batch"], "labels": labels}, protocol=3)
    write_folder(tmp_path / "cifar-10-batches-py", batches() | {"data_batch_1": batch})
    assert "labels are not a list of numbers" in failure(spec(tmp_path))


@pytest.mark.parametrize("rows", [2**40, 2**62])
def test_array_with_a_false_huge_shape_is_rejected(rows: int, tmp_path: Path) -> None:
    huge = Calls(np.ndarray, (rows, 3072), np.dtype(np.uint8))
    batch = pickle.dumps({"data": huge, "labels": [0] * 4}, protocol=2)
    write_folder(tmp_path / "cifar-10-batches-py", batches() | {"data_batch_1": batch})
    assert "damaged, or not" in failure(spec(tmp_path))


def test_links_and_devices_in_an_archive_are_ignored(tmp_path: Path) -> None:
    """Also a link to itself, which a careless reader would follow forever."""
    path = tmp_path / "cifar-10-python.tar.gz"
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.SYMTYPE]
    with tarfile.open(path, "w:gz") as tar:
        for name, kind in zip(NAMES, kinds, strict=False):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.type, member.linkname = kind, f"cifar-10-batches-py/{name}"
            tar.addfile(member)
    assert "missing" in failure(spec(tmp_path))


@pytest.mark.parametrize("packed", [True, False])
def test_archive_that_unpacks_beyond_the_limit_is_rejected(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "MOST_ARCHIVE_BYTES", 1 << 20)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz" if packed else "w") as tar:
        for name, content in [("readme", bytes(3 << 20)), *batches().items()]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert "it unpacks to more than 1 MB" in failure(spec(tmp_path))


def test_uncompressed_archive_is_read(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "cifar-10-python.tar.gz", batches())
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert_right(spec(tmp_path))


def test_members_with_outside_paths_are_not_written(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    write_archive(root / "cifar-10-python.tar.gz", batches(), inside="../..")
    before = sorted((tmp_path / "a").rglob("*"))
    assert_right(spec(root))
    assert sorted((tmp_path / "a").rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "cache"}
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {".npy"}


@pytest.mark.parametrize(
    "batch",
    [
        {"data": PIXELS["test_batch"][:, :-1], "labels": [0] * 4},
        {"data": PIXELS["test_batch"].astype(np.float32), "labels": [0] * 4},
        {"data": PIXELS["test_batch"], "labels": [0] * 3},
        {"data": PIXELS["test_batch"], "labels": [0, 1, 2, 10]},
        {"data": PIXELS["test_batch"]},
        [1, 2],
    ],
)
def test_batch_of_another_form_is_rejected(tmp_path: Path, batch: object) -> None:
    write_archive(tmp_path / "cifar-10-python.tar.gz", batches() | {"test_batch": python2(batch)})
    assert str(tmp_path / "cifar-10-python.tar.gz") in failure(spec(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "not an archive", "a batch missing"])
def test_error_names_the_damaged_archive(tmp_path: Path, damage: str) -> None:
    path = write_archive(tmp_path / "cifar-10-python.tar.gz", batches())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:20000])
    elif damage == "not an archive":
        path.write_bytes(b"<html>not found</html>")
    else:
        write_archive(path, {name: content for name, content in batches().items() if name != "data_batch_2"})
    assert failure(spec(tmp_path)).startswith(f"{path}: damaged, or not cifar-10-python.tar.gz")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignores clients that request the headers only and disconnect."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Returns the address of an archive on a local server, and the archive."""
    path = write_archive(tmp_path / "www" / "mirror.tar.gz", batches())
    handler = functools.partial(Quiet, directory=str(path.parent))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/mirror.tar.gz", path
        server.shutdown()


def test_download_is_checked_and_kept(
    served: tuple[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, path = served
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert_right(spec(tmp_path / "root", url=url, md5=md5, download=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-python.tar.gz"]
    path.unlink()
    assert_right(spec(tmp_path / "root", url=url, md5=md5, download=True))


def test_concurrent_downloads_fetch_the_archive_once(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, path = served
    together, fetched = threading.Barrier(4), []

    def fetch(url: str, root: Path, name: str, md5: str | None) -> None:
        fetched.append(url)
        time.sleep(0.2)  # so that the other threads arrive
        shutil.copy(path, root / name)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    root = tmp_path / "new" / "root"

    def wanted(_: int) -> Path:
        together.wait()
        return cifar.download(Cifar10(url=url, md5=None), cifar.CIFAR10, root)

    with ThreadPoolExecutor(4) as pool:  # each thread opens the lock file itself, so threads behave like processes
        found = list(pool.map(wanted, range(4)))
    assert found == [root / "cifar-10-python.tar.gz"] * 4
    assert fetched == [url]
    assert list(root.iterdir()) == found[:1]


@pytest.mark.parametrize("failing", ["checksum", "missing", "refused"])
def test_failed_download_leaves_no_file_and_gives_advice(
    served: tuple[str, Path], tmp_path: Path, failing: str
) -> None:
    url = {"checksum": served[0], "missing": f"{served[0]}.no", "refused": "http://127.0.0.1:9/x"}[failing]
    line = failure(spec(tmp_path / "root", url=url, download=True))
    assert "could not be downloaded" in line
    assert f"put cifar-10-python.tar.gz from {url} into {tmp_path / 'root'}" in line
    assert list((tmp_path / "root").glob("*")) == []
