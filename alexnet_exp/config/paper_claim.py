"""What an experiment says that a paper claims of it: the setting `paper_claim`, one claim or a list of them.

    paper_claim:
      text: without LRN the top-1 error is 1.4 points higher
      source: section 3.3
      analogue: true
      metric: test/top1
      arm: model.norm=none
      against: model.norm=lrn
      difference: -0.014

No torch and no OmegaConf: it is checked when a configuration is composed, and read again from what runs recorded.
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
    """One claim. Every figure is of `arm` against `against`, in the metric's units: 1.4 points of accuracy are 0.014.

    text: what the paper says, in a sentence. metric: as in result.json. arm, against: as for --baseline; without `arm`
    it is about any arm but the baseline, without `against` the baseline may be any.
    Exactly one of: difference, arm minus against; at_least (0 or more) and at_most (0 or less), bounds of that
    difference, where 0 claims the direction alone; ratio, arm over against, compared on logarithms.
    about: the paper knows the figure to its first digit only. source: where it says so. analogue: what is measured
    here is not the paper's experiment but one like it, on other data. best_of: the settings, with commas, of which each
    arm takes its own best value by validation.

    Raises `Refused` for what cannot be used.
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
            told = "must be a number: the paper's figure, arm minus against; or at_least, at_most or ratio instead"
            checks.refuse("difference", told)
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
        """Whether it is about the quotient of the two, and not about their difference."""
        return self.ratio is not None

    @property
    def values(self) -> tuple[float, float]:
        """What the paper's words allow, from and to: one figure, what rounds to it, or all from a bound on.

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
        """1 where the arm is claimed to have the greater value, -1 where the smaller."""
        if self.at_least is not None or self.at_most is not None:
            return 1 if self.at_least is not None else -1
        return 1 if (self.difference or math.log(self.ratio or 1)) > 0 else -1

    def turned(self) -> PaperClaim:
        """The same claim told of the other arm: of `against` minus `arm`."""
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
    """The claims of the setting `paper_claim`: none of an empty one. Raises `Refused` with every problem in them."""
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
    """Each claim with its key: `paper_claim`, or of a list `paper_claim.0` and so on."""
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
    """All that is `figure` when told to its first digit: of 0.02 from 0.015 to 0.025, of 6 from 5.5 to 6.5."""
    half = 10.0 ** math.floor(math.log10(figure)) / 2
    return figure - half, figure + half


def _is_number(had: Any) -> bool:
    return isinstance(had, int | float) and not isinstance(had, bool) and math.isfinite(had)


def _is_setting(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[\w./@-]+\s*=[^=].*", text))
