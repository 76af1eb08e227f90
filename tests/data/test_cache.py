"""The cache of decoded images: right, used again, made anew when the files change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_exp.data import cache
from alexnet_exp.data.cache import decoded
from alexnet_exp.data.listing import Files, list_files
from alexnet_exp.settings import UserError
from alexnet_exp.user_cache import cache_folder


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
    before = set((tmp_path / "cache").iterdir())
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
    after = set((tmp_path / "cache").iterdir())
    assert len(after) == 1
    assert after != before


def test_another_size_or_folder_has_its_own_file(
    files: Files, tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    other = list_files(make_images(tmp_path / "more" / "images", {"a": 1, "b": 1}, (8, 8)), ["a", "b"])
    for asked, size in ((files, 8), (files, 4), (other, 8)):
        assert decoded(asked, size, tmp_path / "cache").shape == (len(asked.names), 3, size, size)
    assert len(list((tmp_path / "cache").iterdir())) == 3


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
