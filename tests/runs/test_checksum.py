"""Checksums against the system's own tool, and damage of one bit."""

import shutil
import subprocess

import pytest

from alexnet_exp.errors import UserError
from alexnet_exp.runs import checksum


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(bytes(range(256)) * 100)
    checksum.write(path)
    return path


def test_the_file_is_checked_by_its_checksum(file):
    assert checksum.verify(file) is True


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_the_checksum_file(file):
    subprocess.run(["sha256sum", "-c", "last.ckpt.sha256"], cwd=file.parent, check=True, capture_output=True)


def test_known_answer(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert checksum.digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: bytes([c[0] ^ 1]) + c[1:], lambda c: b""])
def test_a_damaged_file_is_rejected(file, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"last\.ckpt: damaged or truncated"):
        checksum.verify(file)


def test_without_a_checksum_nothing_is_checked(tmp_path):
    (tmp_path / "other.ckpt").write_bytes(b"x")
    assert checksum.verify(tmp_path / "other.ckpt") is False
