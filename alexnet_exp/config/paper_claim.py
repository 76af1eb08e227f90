"""Provides the setting `paper_claim`: what a paper claims about an experiment, one claim or a list.

    paper_claim:
      text: without LRN the top-1 error is 1.4 points higher
      source: section 3.3
      analogue: true
      metric: test/top1
      arm: model.norm=none
      against: model.norm=lrn
      difference: -0.014

This module imports neither torch nor OmegaConf: claims are checked when a configuration is composed, and read from
runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from alexnet_exp.errors import NO_VALUE, Checks, Problem, Refused, nearest_name

KEY = "paper_claim"
FIGURES = ("difference", "at_least", "at_most", "ratio")
_TEXTS = ("text", "metric", "arm", "against", "source", "best_of")


@dataclass(frozen=True)
class PaperClaim:
    """One claim. Every figure compares `arm` with `against`, in the metric's units: 1.4 points of accuracy are 0.014.

    text: what the paper says, in a sentence. metric: as in result.json. arm, against: as for --baseline; without `arm`
    it is about any arm but the baseline, without `against` the baseline may be any.
    Exactly one of: difference, arm minus against; at_least (0 or more) and at_most (0 or less), bounds of that
    difference, where 0 claims the direction alone; ratio, arm over against, compared on logarithms.
    about: the paper knows the figure to its first digit only. source: where it says so. analogue: what is measured
    here is not the paper's experiment but one like it, on other data. best_of: the settings, with commas, of which each
    arm takes its own best value by validation.

    Raises Refused for invalid claims.
    """

    text: str
    metric: str = "test/top1"
    arm: str | None = None
    against: str | None = None
    difference: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    ratio: float | None = None
    about: bool = False
    source: str = ""
    analogue: bool = False
    best_of: str = ""

    def __post_init__(self) -> None:
        checks = Checks(self)
        for key in _TEXTS:
            had = getattr(self, key)
            optional = key in ("arm", "against")
            checks.that(key, isinstance(had, str) or (optional and had is None), "must be text")
        for key in ("about", "analogue"):
            checks.that(key, isinstance(getattr(self, key), bool), "must be true or false")
        for key in FIGURES:
            had = getattr(self, key)
            checks.that(key, had is None or _is_number(had), "must be a finite number")
        checks.done()
        checks.that("text", bool(self.text.strip()), "must say what the paper claims")
        checks.that(
            "metric",
            bool(re.fullmatch(r"(train|val|test)/\w+", self.metric)),
            "must be a metric: test/top1, val/loss, ...",
        )
        for key in ("arm", "against"):
            had = getattr(self, key)
            checks.that(key, had is None or _is_setting(had), "must be KEY=VALUE, such as model.norm=none")
        self._check_figures(checks)
        checks.done()

    def _check_figures(self, checks: Checks) -> None:
        given = [key for key in FIGURES if getattr(self, key) is not None]
        if len(given) > 1:
            checks.refuse(given[1], f"{given[0]} is given too; write one of {', '.join(FIGURES)}")
        if not given:
            instead = "must be a number: the paper's figure, arm minus against; or at_least, at_most or ratio instead"
            checks.refuse("difference", instead)
        none = "is no claim: 0 has no direction; for the direction alone write at_least=0 or at_most=0"
        checks.that("difference", self.difference != 0, none)
        checks.that("at_least", self.at_least is None or self.at_least >= 0, "must be 0 or more; below 0 is at_most")
        checks.that("at_most", self.at_most is None or self.at_most <= 0, "must be 0 or less; above 0 is at_least")
        ratio = self.ratio is None or (self.ratio > 0 and self.ratio != 1)
        checks.that("ratio", ratio, "must be above 0 and not 1, which has no direction")
        bound = next((key for key in ("at_least", "at_most") if key in given), None)
        checks.that("about", not (self.about and bound), f"goes with difference or ratio, not with {bound}")

    @property
    def is_ratio(self) -> bool:
        """Whether it is about a ratio, and not about a difference."""
        return self.ratio is not None

    @property
    def values(self) -> tuple[float, float]:
        """Returns the range that the paper's words allow: one figure, what rounds to it, or all from a bound on.

        Of a ratio these are natural logarithms, so that 0 is "no difference" for every claim.
        """
        if self.at_least is not None:
            return self.at_least, math.inf
        if self.at_most is not None:
            return -math.inf, self.at_most
        if self.difference is not None:
            low, high = _rounding(abs(self.difference)) if self.about else (abs(self.difference),) * 2
            return (low, high) if self.difference > 0 else (-high, -low)
        assert self.ratio is not None
        times = max(self.ratio, 1 / self.ratio)
        low, high = (math.log(end) for end in (_rounding(times) if self.about else (times, times)))
        return (max(low, 0.0), high) if self.ratio > 1 else (-high, -max(low, 0.0))

    @property
    def sign(self) -> int:
        """Returns 1 if the arm is claimed to have the higher value, -1 for the lower one."""
        if self.at_least is not None or self.at_most is not None:
            return 1 if self.at_least is not None else -1
        return 1 if (self.difference or math.log(self.ratio or 1)) > 0 else -1

    def turned(self) -> PaperClaim:
        """Returns the same claim with the arms swapped: `against` minus `arm`."""
        return replace(
            self,
            arm=self.against,
            against=self.arm,
            difference=None if self.difference is None else -self.difference,
            at_least=None if self.at_most is None else 0.0 - self.at_most,
            at_most=None if self.at_least is None else 0.0 - self.at_least,
            ratio=None if self.ratio is None else 1 / self.ratio,
        )


def paper_claims(stated: Any) -> list[PaperClaim]:
    """Returns the claims of the setting `paper_claim`; empty if it is empty. Raises Refused with every problem."""
    found: list[PaperClaim] = []
    problems: list[Problem] = []
    for key, one in _each(stated):
        try:
            found.append(_claim(one))
        except Refused as refused:
            problems += [problem.under(key) for problem in refused.problems]
    if problems:
        raise Refused(problems)
    return found


def _each(stated: Any) -> Iterator[tuple[str, Any]]:
    """Yields each claim with its key: `paper_claim`, or `paper_claim.0` and so on for a list."""
    if stated is None or stated in ({}, []):
        return
    if isinstance(stated, Sequence) and not isinstance(stated, str):
        yield from ((f"{KEY}.{place}", one) for place, one in enumerate(stated))
    else:
        yield KEY, stated


def _claim(stated: Any) -> PaperClaim:
    if not isinstance(stated, Mapping):
        raise Refused([Problem("", stated, "must be a group of settings: text, difference, against, ...")])
    defaults: dict[str, Any] = {field.name: field.default for field in fields(PaperClaim)}
    known = list(defaults)
    unknown = [key for key in stated if key not in known]
    if unknown:
        raise Refused([_unknown(str(key), stated[key], known) for key in unknown])
    missing = [key for key, default in defaults.items() if default is MISSING and stated.get(key) is None]
    if missing:
        raise Refused([Problem(key, NO_VALUE, "is missing; it must say what the paper claims") for key in missing])
    return PaperClaim(**{key: defaults[key] if had is None else had for key, had in stated.items()})


def _unknown(key: str, had: Any, known: Sequence[str]) -> Problem:
    near = nearest_name(key, known)
    advice = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
    return Problem(key, had, f"unknown setting; {advice}")


def _rounding(figure: float) -> tuple[float, float]:
    """Returns the range that rounds to `figure` at its first digit: 0.015 to 0.025 for 0.02, 5.5 to 6.5 for 6."""
    half = 10.0 ** math.floor(math.log10(figure)) / 2
    return figure - half, figure + half


def _is_number(had: Any) -> bool:
    return isinstance(had, int | float) and not isinstance(had, bool) and math.isfinite(had)


def _is_setting(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[\w./@-]+\s*=[^=].*", text))
