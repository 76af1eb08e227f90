"""`python -m benchmarks`: groups in processes of their own, what fails, what is missing, who was in the way, the pages.

The groups here are made up and measure nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.machine as machine_of
from alexnet_exp.errors import ExitCode, UserError
from benchmarks.__main__ import GROUPS, main
from benchmarks.machine import Load, Watch
from benchmarks.pages import filled, pages
from benchmarks.processor import RESULTS, Processor, processors, this_processor
from benchmarks.rows import Measured, Missing, Row
from benchmarks.table import Result, load, markdown, save

QUICK = '''"""Quick rows."""
import os, threading
from benchmarks.rows import Measured, Row
def rows(turns, cifar=None):
    data = {"pid": os.getpid(), "turns": turns, "cifar": str(cifar)}
    return Measured([Row("one", "a thing", "another", "s", [(1.0, 2.5)] * turns, target=2)], data)
'''
BROKEN = '"""Broken rows."""\ndef rows(turns):\n    raise ZeroDivisionError("it broke")\n'
PEERLESS = '''"""Peerless rows."""
from benchmarks.rows import Missing
def rows(turns):
    raise Missing("the peer; pip install peer")
'''


SLOW = Processor("Slow, AVX2", "AVX2", {"L2 cache": "1 MiB"})
FAST = Processor("Fast, AMX", "AMX", {"L2 cache": "2 MiB"})


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Made-up modules by group, found by this process and by those that it starts."""
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, source in {"quick": QUICK, "broken": BROKEN, "peerless": PEERLESS}.items():
        (modules / f"group_{name}.py").write_text(source)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (root, modules))))
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.setattr(machine_of, "LOOK", 0.02)
    # this process has other tests' children
    monkeypatch.setattr("benchmarks.__main__.adopt_orphans", lambda: None)
    monkeypatch.setattr("benchmarks.__main__.bury", lambda: None)
    return {name: f"group_{name}" for name in ("broken", "peerless", "quick")}


def result(group: str = "lrn", ours: float = 1.0, load: Load | None = None) -> Result:
    rows = [Row(group, f"what {group} is | was", "the other", "s", [(ours, 3.0)], target=2)]
    where = {"cpu": "CPU", "cores": 2, "threads": 1, "gpu": None, "python": "3.11.7"}
    where |= {"versions": {"torch": "2.9.0"}, "date": "2026-11-24", "commit": "0" * 40, "dirty": True}
    return Result(group, rows, where, load or Load(0.0, 0.0, 0.5, 0.5), 1.5, {"curve": [1, 2]})


def test_what_failed_and_what_is_missing_stop_nothing(
    groups: Mapping[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), "--turns", "3"], groups) == ExitCode.FAILED
    out, err = capfd.readouterr()
    assert "broken: failed, with exit code 1" in err
    assert "ZeroDivisionError: it broke" in err
    assert "peerless: skipped: the peer; pip install peer" in err
    assert "| a thing" in out
    assert "| 2.5x (2.5 to 2.5) | at least 2x | yes |" in out
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == this_processor().folder
    found = load("quick", folder)
    assert found is not None
    assert found.data["turns"] == 3
    assert found.data["pid"] != os.getpid()
    assert found.machine["python"] == ".".join(map(str, sys.version_info[:3]))
    assert sorted(file.name for file in folder.iterdir()) == ["processor.json", "quick.json"]


def test_a_missing_peer_alone_is_no_failure(groups: Mapping[str, str], tmp_path: Path) -> None:
    assert main(["peerless", "--out", str(tmp_path)], groups) == ExitCode.OK


def test_options_reach_the_groups_that_take_them(groups: Mapping[str, str], tmp_path: Path) -> None:
    assert main(["quick", "--cifar", "some/images", "--keras", "python", "--out", str(tmp_path)], groups) == ExitCode.OK
    found = load("quick", tmp_path / this_processor().folder)
    assert found is not None
    assert found.data["cifar"] == str(Path.cwd() / "some/images")


def test_list_names_each_group_with_its_first_line(
    groups: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--list"], {**groups, "later": "not_written_yet"}) == ExitCode.OK
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["broken", "Broken rows."],
        ["peerless", "Peerless rows."],
        ["quick", "Quick rows."],
        ["later", "not there"],
    ]


def test_a_group_that_there_is_not_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lnr"]) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err.startswith("lnr: no such group; did you mean lrn? one of ")
    with pytest.raises(SystemExit) as stop:
        main(["--turns", "0"])
    assert stop.value.code == ExitCode.BAD_INPUT


def test_a_result_by_way_of_its_file(tmp_path: Path) -> None:
    one = result()
    assert Result.from_json(json.loads(save(one, tmp_path / "new").read_text())) == one
    assert load("lrn", tmp_path / "new") == one
    assert load("lrn", tmp_path) is None


# --- who else computed


def test_a_busy_machine_is_told_beside_each_figure() -> None:
    assert Load(0.02, 0.05, 1.0, 1.0).busy == ""
    assert Load(None, None, None, None).busy == ""
    assert Load(1.0, 0.3, 1.0, 1.0).busy == "others kept 1.0 cores busy"
    disturbed = markdown([result(load=Load(0.0, 0.84, 2.0, 2.0))])
    assert "**disturbed: others kept 0.8 cores busy**" in disturbed
    assert "disturbed" not in markdown([result()])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_this_process_and_its_children_use_is_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_of, "_others_now", lambda: 0.0)
    ticks = iter((100.0, 107.0))
    monkeypatch.setattr(machine_of, "_busy", lambda: next(ticks))
    used = iter((10.0, 14.0))
    monkeypatch.setattr(machine_of, "_ours", lambda: next(used))
    watch = Watch()
    watch._time = time.perf_counter() - 6
    assert watch.load().during == pytest.approx((7 - 4) / 6, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_orphans_of_a_group_count_as_its_own() -> None:
    """A process of a child that ends before it: adopted, waited for, and what it used is not others'."""
    script = """
import subprocess, sys
import benchmarks.machine
from benchmarks.machine import _ours, adopt_orphans, bury
benchmarks.machine.FAREWELL = 60
adopt_orphans()
spin = "import time\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spin!r}])"])
before = _ours()
bury()
print(_ours() - before)
bury()  # nobody is left: at once
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(done.stdout) > 0.15


# --- the pages


def test_a_block_of_a_page_is_replaced_by_what_the_files_say(tmp_path: Path) -> None:
    save(result("lrn"), SLOW.save(tmp_path))
    page = "before\n<!-- measured: lrn input -->\nold\n<!-- end -->\nafter\n"
    once = filled(page, tmp_path, GROUPS)
    assert once.startswith("before\n<!-- measured: lrn input -->\n")
    assert once.endswith("<!-- end -->\nafter\n")
    assert "old" not in once
    assert r"| what lrn is \| was | the other | at least 2x | 3x (3 to 3)<br>1 against 3 s |" in once
    assert "- Slow, AVX2: 1 thread; Python 3.11.7, torch 2.9.0; 2026-11-24; commit 000000000000 with changes" in once
    assert "Not measured yet: `input`." in once
    assert filled(once, tmp_path, GROUPS) == once


def test_a_table_has_a_column_for_each_processor(tmp_path: Path) -> None:
    wanted_less = replace(result("lrn", 2.0).rows[0], target=1.6)
    save(replace(result("lrn"), rows=[wanted_less]), SLOW.save(tmp_path))
    other = replace(wanted_less, name="only here", what="only here", target=None)
    machine = {**result().machine, "date": "2026-12-01"}
    busy = Load(0.0, 0.84, 2.0, 2.0)
    save(replace(result("lrn"), rows=[*result("lrn").rows, other], machine=machine, load=busy), FAST.save(tmp_path))
    once = filled("<!-- measured: lrn -->\n<!-- end -->\n<!-- kept: processors -->\n<!-- end -->", tmp_path, GROUPS)
    assert "|  | compared with | wanted | Fast, AMX | Slow, AVX2 |" in once
    slow = "**not met:** 1.5x (1.5 to 1.5), wanted at least 1.6x<br>2 against 3 s"
    assert rf"| what lrn is \| was | the other | at least 2x | 3x (3 to 3) †<br>1 against 3 s | {slow} |" in once
    assert "| only here | the other | - | 1.5x (1.5 to 1.5) †<br>2 against 3 s | - |" in once
    assert "† others kept 0.8 cores busy" in once
    assert "- Fast, AMX: L2 cache 2 MiB\n- Slow, AVX2: L2 cache 1 MiB" in once


def test_choices_stand_below_their_table_with_what_each_candidate_took(tmp_path: Path) -> None:
    data = {"fast/float32/32": {"seconds": {"default": [0.01, 0.03, 0.02], "torch": [0.04]}}}
    data["bn/float32/32"] = {"seconds": {"default": [0.5]}}
    save(replace(result("choice"), data={**data, "float32": {"phrase": "torch only"}}), SLOW.save(tmp_path))
    once = filled("<!-- measured: choice -->\n<!-- end -->\n", tmp_path, GROUPS)
    assert "The choice on Slow, AVX2, and" in once
    assert "\n- float32: torch only\n" in once
    assert "| ms | default | torch |\n|---|---|---|\n| fast/float32/32 | 20 | 40 |\n| bn/float32/32 | 500 | - |" in once


def test_results_lie_in_folders_of_their_processors() -> None:
    found = processors(RESULTS)
    assert found
    assert [folder.name for folder in found] == [each.folder for each in found.values()]
    assert Processor("Intel 6-207, AMX, 2 cores", "AMX", {}).folder == "intel-6-207-amx-2-cores"


@pytest.mark.parametrize("page", ["<!-- measured: lnr -->\n<!-- end -->", "<!-- measured: lrn -->\nno end"])
def test_a_block_that_cannot_be_filled_is_refused(page: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"performance\*\.md"):
        filled(page, tmp_path, GROUPS)


def test_the_pages_say_what_the_files_say() -> None:
    found: list[str] = []
    for file in pages():
        page = file.read_text(encoding="utf-8")
        assert filled(page, RESULTS, GROUPS) == page, "python -m benchmarks --write-docs"
        blocks = [line.split()[2:-1] for line in page.splitlines() if line.startswith("<!-- measured:")]
        found += [name for names in blocks for name in names]
    assert sorted(found) == sorted(GROUPS)


def test_rows_of_a_group_may_come_with_data() -> None:
    assert Measured([], {"curve": []}).data == {"curve": []}
    assert str(Missing("what")) == "what"


def test_a_picture_stands_below_the_table_of_its_group(tmp_path: Path) -> None:
    page = "<!-- measured: scale -->\n<!-- end -->\n"
    assert "scale.png" not in filled(page, tmp_path, GROUPS)
    save(result("scale"), SLOW.save(tmp_path))
    assert "\n![How images per second, compare and memory grow](../pictures/scale.png)\n" in filled(
        page, tmp_path, GROUPS
    )
