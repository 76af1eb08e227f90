"""The number of examples of the slow fuzz tests."""

from __future__ import annotations

import os

from hypothesis import settings

TIMES = int(os.environ.get("ALEXNET_EXP_HUNT", "0"))
"""Factor of the number of examples, with new input each time; 0 = the same input on every machine."""


def hunt(examples: int) -> settings:
    """Returns settings for that many examples, or a multiple: `ALEXNET_EXP_HUNT=20 pytest -m slow tests/fuzz`."""
    return settings(settings.get_profile("fuzz"), max_examples=examples * max(1, TIMES), derandomize=TIMES == 0)
