"""Kernels are compiled once, also by several processes; where there are none, the reason is given."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_exp.kernels import native as module
from alexnet_exp.kernels.native import FLAGS_VARIABLE, NATIVE_VARIABLE, Native, native

TWICE = "int twice(int x) { return 2 * x; }\n"
STARTED = """
from pathlib import Path
from alexnet_exp.kernels import native
native.SOURCE_FOLDER = Path({sources!r})
print(native.native().library.twice(21))
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one kernel, in place of the package's; the cache is empty."""
    if native().library is None:
        pytest.skip(native().why)
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "common.h").write_text("enum { LANES = 16 };\n")
    (folder / "twice.c").write_text('#include "common.h"\n' + TWICE)
    monkeypatch.setattr(module, "SOURCE_FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def again() -> Native:
    """Returns what a new process would load."""
    return native.__wrapped__()


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "alexnet_exp" / "kernels").iterdir())


def test_a_kernel_is_compiled_once(sources: Path, tmp_path: Path) -> None:
    library = again().library
    assert library is not None
    assert library.twice(21) == 42
    (file,) = cached(tmp_path)
    first = file.stat()
    assert again().library is not None
    assert cached(tmp_path) == [file]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


@pytest.mark.parametrize("change", ["source", "header", "new file", "flags", "more flags", "processor"])
def test_the_cached_file_is_named_by_sources_headers_flags_and_processor(
    change: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again()
    match change:
        case "source":
            (sources / "twice.c").write_text(TWICE.replace("2", "4 / 2"))
        case "header":
            (sources / "common.h").write_text("enum { LANES = 8 };\n")
        case "new file":
            (sources / "thrice.c").write_text(TWICE.replace("twice", "thrice"))
        case "flags":
            monkeypatch.setattr(module, "COMPILER_FLAGS", (*module.COMPILER_FLAGS, "-O2"))
        case "more flags":
            monkeypatch.setenv(FLAGS_VARIABLE, "-g -DTEXT='a b'")
        case "processor":
            monkeypatch.setattr(module, "processor", lambda: "flags: another")
    assert again().library is not None
    assert len(cached(tmp_path)) == 2


def test_several_processes_at_once_compile_one_library(sources: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTED.format(sources=str(sources))]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in started] == ["42\n"] * 3
    assert [file.suffix for file in cached(tmp_path)] == [".so"]


def test_a_machine_without_a_compiler(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert again() == Native(None, "no C compiler (cc) on this machine")
    monkeypatch.setenv("CC", "gcc-0")
    assert again() == Native(None, "no C compiler (gcc-0) on this machine")


def compiler_without(flag: str, folder: Path) -> Path:
    """A compiler that rejects a flag."""
    compiler = folder / "limited"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{flag}*) echo no {flag} >&2; exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    return compiler


@pytest.mark.parametrize("flag", ["-fopenmp", "-march=native"])
def test_a_compiler_without_an_optional_flag_compiles_without_it(
    flag: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", str(compiler_without(flag, tmp_path)))
    library = again().library
    assert library is not None
    assert library.twice(21) == 42
    assert f"lacks {flag}, so the native kernels are slower" in caplog.text


def test_a_compiler_without_a_necessary_flag_is_reported(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = compiler_without("-fPIC", tmp_path)
    monkeypatch.setenv("CC", str(compiler))
    assert again() == Native(None, f"{compiler} failed: no -fPIC")


def test_a_compiler_with_arguments(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "env LANG=C cc '-DTEXT=a b'")
    assert again().library is not None
    monkeypatch.setenv("CC", "env 'cc")
    assert again() == Native(None, "CC=env 'cc: No closing quotation; quote it as in a shell")


def test_a_wrapped_compiler_is_identified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ccache gcc` stays the same program when gcc is updated."""
    compiler = compiler_without("nothing", tmp_path)
    keys = set()
    for age in (1, 2):
        os.utime(compiler, (age, age))
        keys.add(module._key([], ["env", str(compiler)], ()))
    assert len(keys) == 2


def test_more_flags_reach_the_compiler(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "text.c").write_text("const char *text(void) { return TEXT; }\n")
    monkeypatch.setenv(FLAGS_VARIABLE, r"""-g -DTEXT='"a b"'""")
    library = again().library
    assert library is not None
    library.text.restype = ctypes.c_char_p
    assert library.text() == b"a b"
    monkeypatch.setenv(FLAGS_VARIABLE, "-g other.c")
    assert again() == Native(None, f"{FLAGS_VARIABLE}=-g other.c: other.c is no flag; begin each with a dash")


def test_a_failing_compiler_is_reported(sources: Path, tmp_path: Path) -> None:
    (sources / "broken.c").write_text("int broken(void) { return")
    found = again()
    assert found.library is None
    assert "failed:" in found.why
    assert "broken.c" in found.why
    assert "\n" not in found.why
    assert cached(tmp_path) == []


def slow_compiler(folder: Path) -> Path:
    """One that leaves its work to another process, as cc does, which notes its number and its temporary folder."""
    compiler = folder / "slow"
    compiler.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {folder}/worker\necho $TMPDIR > {folder}/tmpdir\nwait\n")
    compiler.chmod(0o755)
    return compiler


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_hanging_compiler_is_ended(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(slow_compiler(tmp_path)))
    monkeypatch.setattr(module, "COMPILER_TIMEOUT_S", 1)
    assert "timed out" in again().why
    assert not is_running(int((tmp_path / "worker").read_text()))
    assert Path((tmp_path / "tmpdir").read_text().strip()).parent == tmp_path / "cache" / "alexnet_exp" / "kernels"
    assert cached(tmp_path) == []


def test_an_interrupted_compiler_leaves_nothing(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(process: subprocess.Popen[bytes], **_: object) -> None:
        monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
        while not (tmp_path / "tmpdir").is_file():
            time.sleep(0.01)
        raise KeyboardInterrupt

    communicate = subprocess.Popen.communicate
    monkeypatch.setenv("CC", str(slow_compiler(tmp_path)))
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        again()
    assert not is_running(int((tmp_path / "worker").read_text()))
    assert cached(tmp_path) == []


def test_files_of_a_killed_compiler_are_removed_after_an_hour(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "alexnet_exp" / "kernels"
    old, new = folder / "1.old.part", folder / "2.new.part"
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "cc.o").touch()
    os.utime(old, (0, 0))
    assert again().library is not None
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("place", ["cache", "cache/alexnet_exp"])
def test_a_parent_folder_that_others_may_write_is_rejected(place: str, sources: Path, tmp_path: Path) -> None:
    """They could put another folder in its place."""
    again()
    (tmp_path / place).chmod(0o777)
    folder = tmp_path / "cache" / "alexnet_exp" / "kernels"
    advice = "chmod go-w it, or set XDG_CACHE_HOME to a folder of your own"
    assert again() == Native(
        None, f"{tmp_path / place}: others may write it, so nothing is loaded from {folder}; {advice}"
    )
    (tmp_path / place).chmod(0o1777)  # as /tmp: what is in it and yours stays yours
    assert again().library is not None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_parent_folder_of_another_user_is_rejected(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)
    (tmp_path / "cache" / "alexnet_exp").mkdir()
    os.chown(tmp_path / "cache" / "alexnet_exp", 12345, 12345)
    assert again().library is None
    assert again().why.startswith(f"{tmp_path / 'cache' / 'alexnet_exp'}: others may write it")


def test_a_linked_cache_is_checked_at_its_target(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert again().library is not None
    (tmp_path / "disk").chmod(0o777)
    assert again().library is None


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_damaged_library_is_compiled_again(content: bytes, sources: Path, tmp_path: Path) -> None:
    again()
    (file,) = cached(tmp_path)
    file.unlink()  # another file: the loaded one is mapped
    file.write_bytes(content)
    library = again().library
    assert library is not None
    assert library.twice(21) == 42


def test_a_library_that_others_could_have_written_is_compiled_again(sources: Path, tmp_path: Path) -> None:
    """Whoever can write a library can run code in this process."""
    again()
    (file,) = cached(tmp_path)
    (sources / "other.c").write_text(TWICE.replace("2 * x", "13"))
    planted = tmp_path / "planted.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(sources / "other.c"), "-o", str(planted)], check=True)
    (sources / "other.c").unlink()
    file.unlink()
    planted.replace(file)
    file.chmod(0o666)
    library = again().library
    assert library is not None
    assert library.twice(21) == 42
    assert file.stat().st_mode & 0o022 == 0


def test_a_link_in_place_of_the_library_is_not_followed(sources: Path, tmp_path: Path) -> None:
    again()
    (file,) = cached(tmp_path)
    file.replace(tmp_path / "elsewhere.so")
    file.symlink_to(tmp_path / "elsewhere.so")
    assert again().library is not None
    assert not file.is_symlink()


def test_a_cache_folder_that_others_may_write_loses_that_permission(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "alexnet_exp" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert again().library is not None
    assert folder.stat().st_mode & 0o022 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_cache_folder_of_another_user_is_rejected(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "alexnet_exp" / "kernels"
    folder.mkdir(parents=True)
    os.chown(folder, 12345, 12345)
    found = again()
    assert found.library is None
    assert found.why == f"{folder}: others may write it, so nothing is loaded from there"


def test_an_unwritable_cache_is_reported(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = again()
    assert found.library is None
    assert str(tmp_path / "file") in found.why


def test_the_environment_variable_disables_the_kernels(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NATIVE_VARIABLE, "0")
    assert again() == Native(None, f"{NATIVE_VARIABLE}=0")
    monkeypatch.setenv(NATIVE_VARIABLE, "1")
    assert again().library is not None


def test_other_systems_have_no_kernels(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert again() == Native(None, "native kernels are compiled on Linux only")


def test_torch_and_the_kernels_share_one_openmp() -> None:
    if not isinstance(native().library, ctypes.CDLL):
        pytest.skip(native().why)
    # in a process of its own: scikit-learn brings another one
    program = (
        "import torch; from alexnet_exp.kernels.native import native; native(); torch.ones(1); "
        "print(open('/proc/self/maps').read())"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    files = {line.split()[-1] for line in shown.stdout.splitlines() if "gomp" in line or "iomp" in line}
    assert len(files) == 1
