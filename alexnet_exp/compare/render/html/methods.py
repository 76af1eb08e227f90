"""The paragraph for a paper's Methods section, from the comparison itself."""

from __future__ import annotations

from alexnet_exp.compare.result import Comparison
from alexnet_exp.compare.statistics import REPEATED_TEST_PERCENT
from alexnet_exp.runs.metric import difference_text, unit
from alexnet_exp.runs.status import Status

# Difference.method in the words of a paper.
_TESTS = {
    "Welch": "Welch's t test",
    "Welch with Holm": "Welch's t tests with Holm's correction",
    "paired t": "a paired t test over the seeds in common",
    "paired t with Holm": "paired t tests over the seeds in common with Holm's correction",
}


def methods(comparison: Comparison) -> str:
    """Returns seeds, metric, tests, correction and margin in full sentences; nothing if no arm has a finished run."""
    counts = sorted({arm.n for arm in comparison.arms})
    if not counts or not counts[-1]:
        return ""
    sentences = [
        _seeds(len(comparison.arms), counts),
        f"{_capital(comparison.metric.label)} is reported {_reported(counts[-1])}",
    ]
    tests = [_TESTS[name] for name in dict.fromkeys(d.method for d in comparison.differences) if name in _TESTS]
    baselines = list(dict.fromkeys(difference.baseline.label for difference in comparison.differences))
    if tests:
        level = "5%" if len(comparison.differences) == 1 else "family-wise 5%"
        sentences.append(f"Differences were tested with {' or '.join(tests)} (two-sided, {level})")
        if len(baselines) == 1:
            sentences.append(f"The baseline is {baselines[0]}")
        else:
            sentences.append(
                f"The 5% were divided between {len(baselines)} baselines; each arm was tested against the baseline "
                "that matches it in all other settings"
            )
        sentences.append("Intervals of differences use the same level with Bonferroni's correction")
        if len(comparison.differences) == 1:
            sentences[-1] = "The interval of the difference uses the same level"
        sentences.append(
            "The tests assume that the numbers of seeds were fixed in advance. If seeds were added because of earlier "
            "results and all were tested again, a comparison without a true difference gets a false verdict in "
            f"{REPEATED_TEST_PERCENT} of 100 cases (simulated), not in 5"
        )
    if tests and comparison.margin is not None:
        size = f"{difference_text(comparison.metric.key, comparison.margin)} {unit(comparison.metric.key)}"
        sentences.append(
            f"Arms are reported as not differing by more than {size} if two one-sided tests reject differences of that "
            "size or more"
        )
    if any(difference.images_interval for difference in comparison.differences):
        sentences.append(
            "A second interval, for new seeds and new images, adds the variance of a bootstrap over the test images to "
            "Welch's"
        )
    unfinished = sum(run.status != Status.DONE for run in comparison.runs)
    if unfinished:
        sentences.append(f"{unfinished} of {len(comparison.runs)} runs did not finish and are not counted")
    return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences)


def _seeds(arms: int, counts: list[int]) -> str:
    number = f"{counts[-1]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    noun = "seed" if counts[-1] == 1 else "seeds"
    return f"{'One configuration' if arms == 1 else f'Each of {arms} configurations'} was trained with {number} {noun}"


def _reported(most: int) -> str:
    if most == 1:
        return "for a single run, so the spread over seeds is unknown"
    interval = " with its 95% t interval" if most > 2 else ""
    return f"as the mean over seeds{interval}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
