"""The development kit of ILSVRC-2012 as a folder and as an archive, intact, damaged and malicious."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import scipy.io

from alexnet_exp.data import devkit
from alexnet_exp.data.devkit import Devkit, find_devkit, read_devkit
from alexnet_exp.errors import UserError
from tests.devkit import META, NAME, TRUTH, as_archive, as_folder, meta, truth

# in the order of the kit, not of the WNIDs
CLASSES = [("n02119789", "kit fox, Vulpes macrotis"), ("n01440764", "tench"), ("n02100735", "English setter")]
LABELS = [3, 1, 2, 2, 1, 3]


def line(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_devkit(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: not a usable {NAME}: ")
    return str(error.value)


def kit(root: Path, content: bytes | None = None, labels: bytes | None = None) -> Path:
    return as_folder(root, meta(CLASSES) if content is None else content, truth(LABELS) if labels is None else labels)


def test_classes_are_the_leaves_in_id_order(tmp_path: Path) -> None:
    read = read_devkit(as_folder(tmp_path, meta(CLASSES, 1300), truth(LABELS)))
    assert read.wnids == ["n02119789", "n01440764", "n02100735"]  # without n00001740, the inner node
    assert read.words == dict(CLASSES)
    assert read.counts == dict.fromkeys(read.wnids, 1300)
    assert read.truth == LABELS


def test_devkit_equals_what_scipy_reads(tmp_path: Path) -> None:
    content = meta(CLASSES, 7)
    read = read_devkit(as_folder(tmp_path, content, truth(LABELS)))
    theirs = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
    leaves = [row for row in theirs if row["num_children"] == 0]
    assert [str(row["WNID"]) for row in leaves] == read.wnids
    assert [str(row["words"]) for row in leaves] == [read.words[wnid] for wnid in read.wnids]
    assert [int(row["num_train_images"]) for row in leaves] == [read.counts[wnid] for wnid in read.wnids]


@pytest.mark.parametrize("prefix", ["", "./"])
def test_archive_equals_its_folder(tmp_path: Path, prefix: str) -> None:
    folder = read_devkit(kit(tmp_path))
    members = {f"{prefix}{NAME}/readme.txt": b"hello", f"{prefix}{NAME}/{META}": meta(CLASSES)}
    archive = as_archive(tmp_path / "any.tar.gz", members | {f"{prefix}{NAME}/{TRUTH}": truth(LABELS)})
    assert read_devkit(archive) == Devkit(archive, folder.wnids, folder.words, folder.counts, folder.truth)


def test_archive_is_not_extracted_and_links_are_ignored(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    good = {f"{NAME}/{META}": meta(CLASSES), f"{NAME}/{TRUTH}": truth(LABELS)}
    evil = {f"../../{NAME}/{META}": b"evil", "../evil.txt": b"evil", "/tmp/evil.txt": b"evil"}
    archive = as_archive(inside / "kit.tar.gz", evil | good)
    assert read_devkit(archive).truth == LABELS
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == [archive]
    assert f"it has no {NAME}/{META}" in line(as_archive(inside / "evil.tar.gz", evil))
    linked = inside / "link.tar.gz"
    with tarfile.open(linked, "w:gz") as tar:
        for name in (META, TRUTH):
            member = tarfile.TarInfo(f"{NAME}/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    assert f"it has no {NAME}/{META}" in line(linked)


def test_devkit_is_searched_for_in_the_root(tmp_path: Path) -> None:
    assert find_devkit(None, tmp_path) is None
    archive = as_archive(tmp_path / f"{NAME}.tar.gz", {})
    assert find_devkit(None, tmp_path) == archive
    folder = kit(tmp_path)
    assert find_devkit(None, tmp_path) == folder
    assert find_devkit(str(archive), tmp_path / "elsewhere") == archive
    with pytest.raises(UserError, match=r"data\.devkit=nowhere: no such file or folder"):
        find_devkit("nowhere", tmp_path)


def test_damaged_devkit_is_a_one_line_error(tmp_path: Path) -> None:
    whole, labels = meta(CLASSES), truth(LABELS)
    for number, content in enumerate((b"", whole[:100], whole[:200], whole[:-1], b"\0" * 5000)):
        assert f"{META}: it " in line(kit(tmp_path / str(number), content))
    archive = as_archive(tmp_path / "kit.tar.gz", {f"{NAME}/{META}": whole, f"{NAME}/{TRUTH}": labels})
    packed = archive.read_bytes()
    for content in (b"", packed[:100], packed[: len(packed) // 2], packed[:-8], b"no archive", gzip.compress(b"none")):
        archive.write_bytes(content)
        line(archive)
    (tmp_path / "empty").mkdir()
    assert f"it has no {META}" in line(tmp_path / "empty")


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        ({"ILSVRC2012_ID": 2.0}, "class 2 ('n02100735') does not have a unique ID"),
        ({"ILSVRC2012_ID": 2.5}, "class 2.5"),
        ({"ILSVRC2012_ID": 9.0}, "do not have the IDs 1 to 3"),
        ({"ILSVRC2012_ID": "3"}, "a class without ILSVRC2012_ID"),
        ({"ILSVRC2012_ID": float("nan")}, "class nan"),
        ({"WNID": "../../etc"}, "'../../etc'"),
        ({"WNID": "n02119789"}, "do not have the IDs 1 to 3 and a WNID each"),
        ({"WNID": 7.0}, "a class without"),
        ({"num_children": []}, "a class without"),
    ],
)
def test_inconsistent_classes_are_rejected(tmp_path: Path, altered: dict[str, object], said: str) -> None:
    assert said in line(kit(tmp_path, meta(CLASSES, **altered)))


def test_words_contain_no_control_characters(tmp_path: Path) -> None:
    read = read_devkit(kit(tmp_path, meta(CLASSES, words="English\n\x1b[31msetter")))
    assert read.words["n02100735"] == "English [31msetter"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (truth(LABELS[:-1]), "5 labels, but not the same number of each of the 3 classes"),
        (truth([1, 1, 2, 2]), "4 labels, but not the same number"),
        (b"", "0 labels"),
        (truth([0, 1, 2]), "a line is not a number from 1 to 3"),
        (truth([4, 1, 2]), "a line is not a number from 1 to 3"),
        (b"1\n2\n-3\n", "a line is not a number"),
        (b"1\n2\n" + b"9" * 5000, "a line is not a number"),
        (bytes(100), "a line is not a number"),
    ],
)
def test_invalid_labels_are_rejected(tmp_path: Path, labels: bytes, said: str) -> None:
    assert said in line(kit(tmp_path, labels=labels))


def test_decompression_bomb_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devkit, "MOST_DEVKIT_BYTES", 1 << 20)
    archive = as_archive(tmp_path / "kit.tar.gz", {"zeros": bytes(2 << 20)})
    assert archive.stat().st_size < 10_000
    assert "more than 1 MB" in line(archive)
