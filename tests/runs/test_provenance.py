"""The commit and the patch, in real repositories, and what is known without one."""

import os
import platform
import subprocess

import pytest
import torch

from alexnet_exp.runs import provenance
from alexnet_exp.runs.provenance import Code, code, cpu_model, environment

SETTINGS = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def git(root, *arguments):
    return subprocess.run(
        ["git", *SETTINGS, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    (root / "alexnet_exp").mkdir(parents=True)
    (root / "conf").mkdir()
    (root / "alexnet_exp" / "a.py").write_text("a = 1\n")
    (root / ".gitignore").write_text("*.ckpt\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "start")
    return root


def test_a_clean_checkout(checkout):
    assert code(checkout) == Code(git(checkout, "rev-parse", "HEAD"), dirty=False, patch="")


def test_the_patch_reproduces_the_code_in_a_clean_clone(checkout, tmp_path):
    git(checkout, "clone", "--quiet", ".", str(tmp_path / "clone"))
    (checkout / "alexnet_exp" / "a.py").write_text("a = 2  # größer\n")
    (checkout / "alexnet_exp" / "new file.py").write_text("b = 1")  # untracked, and without a last newline
    (checkout / "conf" / "icon.bin").write_bytes(bytes(range(256)))
    (checkout / "alexnet_exp" / "latin.txt").write_bytes(b"caf\xe9\n")
    (checkout / "conf" / "best.ckpt").write_text("ignored")
    (checkout / "scratch.txt").write_text("outside of the code")
    git(checkout, "config", "color.ui", "always")
    git(checkout, "config", "diff.noprefix", "true")
    index = (checkout / ".git" / "index").read_bytes()

    found = code(checkout)
    assert found.dirty is True
    assert (checkout / ".git" / "index").read_bytes() == index
    (tmp_path / "code.patch").write_bytes(found.patch.encode(errors="surrogateescape"))
    git(tmp_path / "clone", "apply", str(tmp_path / "code.patch"))
    for name in ("alexnet_exp/a.py", "alexnet_exp/new file.py", "conf/icon.bin", "alexnet_exp/latin.txt"):
        assert (tmp_path / "clone" / name).read_bytes() == (checkout / name).read_bytes()
    assert not (tmp_path / "clone" / "conf" / "best.ckpt").exists()
    assert not (tmp_path / "clone" / "scratch.txt").exists()


def test_the_patch_is_bounded(checkout):
    (checkout / "alexnet_exp" / "a.py").write_text("a = 2\n")
    (checkout / "conf" / "data.txt").write_text("x" * 2_000_000)
    (checkout / "conf" / "one.txt").write_text("one\n" * 150_000)
    (checkout / "conf" / "two.txt").write_text("two\n" * 150_000)
    found = code(checkout)
    assert found.dirty is True
    assert "+a = 2" in found.patch
    assert "# conf/data.txt: untracked, 2000000 bytes, left out" in found.patch
    assert "characters of changes left out" in found.patch
    assert len(found.patch) < 1_100_000


def test_a_repository_that_does_not_track_the_code_is_ignored(tmp_path):
    (tmp_path / "alexnet_exp").mkdir()
    (tmp_path / "alexnet_exp" / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "--quiet")
    assert code(tmp_path) == Code()


def test_outside_git_nothing_is_known(tmp_path):
    assert code(tmp_path) == Code(commit=None, dirty=None, patch="")


def test_a_package_installed_below_another_repository_is_not_its_code(checkout):
    installed = checkout / "site-packages"
    (installed / "alexnet_exp").mkdir(parents=True)
    (installed / "alexnet_exp" / "a.py").write_text("a = 1\n")
    assert code(installed) == Code()


def test_the_reason_of_git_is_recorded(checkout, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    found = provenance.code(checkout)
    assert found.commit is None
    assert found.why_unknown.startswith(f"detected dubious ownership in repository at '{checkout}'")
    assert found.why_unknown.endswith(f"; git config --global --add safe.directory {checkout}")


def test_without_git_nothing_is_known(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code(checkout) == Code()


def test_the_environment_is_this_one():
    found = environment()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["versions"]["python"] == platform.python_version()
    assert found["pid"] == os.getpid()
    assert found["host"]
    assert found["cpu"] == cpu_model() != ""


def test_a_remembered_state_of_the_code_survives_changed_files(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "code", lambda: code(checkout))
    monkeypatch.setattr(provenance, "_remembered", None)
    before = code(checkout)
    assert provenance.running() == before
    provenance.remember()
    (checkout / "alexnet_exp" / "a.py").write_text("a = 2\n")
    assert code(checkout).dirty
    assert provenance.running() == before
