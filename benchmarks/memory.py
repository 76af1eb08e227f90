"""What a data set held in memory costs where several processes read it: each one's own bytes, and those of all.

python -m benchmarks.memory FILE.npy      is one of these processes; `held` starts them
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from alexnet_exp.data.split import ResidentSplit
from benchmarks.rows import Missing

SMAPS = Path("/proc/self/smaps")
BATCH = 128


def held(file: Path, processes: int) -> float:
    """Bytes of the machine's memory that so many processes hold for the images in `file`, once each has read them all.

    A page that k of them share counts as 1/k in each, so that the sum is what is there. With it goes what each of them
    has copied for itself. Raises `Missing` where the system does not tell (it is not Linux).
    """
    if not SMAPS.exists():
        raise Missing(f"{SMAPS}: only Linux tells which memory is shared")
    command = [sys.executable, "-m", "benchmarks.memory", str(file)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    _answers(started)  # all have read all
    found = [float(json.loads(answer)) for answer in _answers(started)]
    for process in started:
        process.communicate()
    return sum(found)


def _answers(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """A line from each, once all have said one; then they go on."""
    answers = []
    for process in processes:
        assert process.stdout is not None
        answers.append(process.stdout.readline())
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return answers


def main() -> None:
    """Reads every image in a random order, waits for the others, and tells what it holds."""
    file = Path(sys.argv[1])
    before = _bytes("Anonymous", "")
    array = torch.from_numpy(np.load(file, mmap_mode="c"))  # as `data.mapped` has it
    split = ResidentSplit(array, torch.zeros(len(array), dtype=torch.long))
    for rows in torch.split(torch.randperm(len(split)), BATCH):
        split.images(rows)
    print("read", flush=True)
    sys.stdin.readline()
    print(_bytes("Pss", str(file)) + max(0, _bytes("Anonymous", "") - before), flush=True)
    sys.stdin.readline()  # as long as one counts, all hold it


def _bytes(field: str, path: str) -> int:
    """The sum of a field of /proc/self/smaps over this process's mappings of the file `path`, or of none (`""`)."""
    total, counts = 0, False
    for line in SMAPS.read_text().splitlines():
        words = line.split(maxsplit=5)
        if "-" in words[0] and not words[0].endswith(":"):  # the first line of a mapping
            counts = (words[5] if len(words) > 5 else "") == path if path else len(words) < 6 or words[5][0] == "["
        elif counts and words[0] == f"{field}:":
            total += 1024 * int(words[1])
    return total


if __name__ == "__main__":
    main()
