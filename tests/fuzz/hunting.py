"""How long the slow tests look for input that nobody thought of."""

from __future__ import annotations

import os

from hypothesis import settings

TIMES = int(os.environ.get("ALEXNET_EXP_HUNT", "0"))
"""So many times as much, and other input each time; 0: the same on every machine."""


def hunt(examples: int) -> settings:
    """Settings for a test of that many examples, or of a multiple: `ALEXNET_EXP_HUNT=20 pytest -m slow tests/fuzz`."""
    return settings(settings.get_profile("fuzz"), max_examples=examples * max(1, TIMES), derandomize=TIMES == 0)
