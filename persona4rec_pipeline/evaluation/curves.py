"""The curves of the report, as pictures within the page.

Belongs here: where points, intervals and ticks of a picture lie, and rendering its sections. Does not belong here: the
figures (`ablations.py`, `learning.py`), the rest of the page (`report_page.py`).

A picture is SVG without a view box: places along the axis are percentages of its width, heights are pixels, and text keeps
its size on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from persona4rec_pipeline.evaluation.report import Report
from persona4rec_pipeline.evaluation.significance import Estimate

# Where the plotted area begins and ends: per cent of the width, pixels of the height.
LEFT, RIGHT, TOP, BOTTOM = 13.0, 99.0, 12.0, 200.0
TICKS = 5
# An interval of fewer users than these says little: it is drawn pale.
FEW_USERS = 10


@dataclass(frozen=True)
class Plot:
    """Estimates with their intervals over places of equal distance.

    axis, places: what lies along the axis, and its places. counts: a number under each place; counted: what it is of.
    curves: name -> one estimate per place. is_gain: whether 0 is on the picture and signs are shown. is_joined: whether
    the points of a curve are joined by lines. few: places whose points are drawn pale.
    """

    axis: str
    places: Sequence[str]
    curves: Mapping[str, Sequence[Estimate]]
    counted: str
    counts: Sequence[int]
    is_gain: bool = False
    is_joined: bool = True
    few: Sequence[int] = ()

    @cached_property
    def ticks(self) -> list[float]:
        """Round numbers from below the lowest to above the highest interval."""
        found = [estimate for curve in self.curves.values() for estimate in curve]
        ends = [end for estimate in found for end in (estimate.low, estimate.high, estimate.value)]
        low, high = min(ends + [0.0] * self.is_gain), max(ends + [0.0] * self.is_gain)
        step = _round_step((high - low) / TICKS)
        first, last = math.floor(low / step), math.ceil(high / step)
        return [number * step for number in range(first, max(last, first + 1) + 1)]

    def x(self, place: int) -> float:
        """Per cent of the width."""
        return round(LEFT + (place + 0.5) / len(self.places) * (RIGHT - LEFT), 2)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return round(BOTTOM - (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]) * (BOTTOM - TOP), 1)

    def tick(self, value: float) -> str:
        """A tick in words, as exact as the distance of two of them needs."""
        decimals = max(0, -math.floor(math.log10(self.ticks[1] - self.ticks[0]) + 1e-9))
        # Adding 0 makes a negative zero a plain one.
        return f"{round(value, decimals) + 0.0:{'+' if self.is_gain and abs(value) > 1e-9 else ''}.{decimals}f}"

    def words(self, estimate: Estimate) -> str:
        """An estimate in words."""
        sign = "+" if self.is_gain else ""
        return f"{estimate.value:{sign}.4f} ({estimate.low:{sign}.4f} to {estimate.high:{sign}.4f})"


def render_curves(report: Report) -> Markup:
    """The sections of the page with the report's curves; nothing without a table."""
    if not report.tables:
        return Markup()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = files(__package__).joinpath("curves.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(text).render(
        report=report,
        history=_history(report),
        limits=_limits(report),
        learning=_learning(report),
        left=LEFT,
        right=RIGHT,
        bottom=BOTTOM,
        few_users=FEW_USERS,
    )
    return Markup(page)


def _history(report: Report) -> Plot:
    names = list(report.history[0].gains)
    return Plot(
        "positive train interactions of the user",
        [found.interactions.replace("-", "–") for found in report.history],
        {name.replace("_", " "): [found.gains[name] for found in report.history] for name in names},
        "users",
        [found.users for found in report.history],
        is_gain=True,
        # Users of two bins are different people.
        is_joined=False,
        few=[place for place, found in enumerate(report.history) if found.users < FEW_USERS],
    )


def _limits(report: Report) -> Plot | None:
    if report.personas_per_item is None:
        return None
    limits = report.personas_per_item.limits
    return Plot(
        "personas per item, at most",
        [str(limit.most) for limit in limits],
        {"NDCG@10": [limit.ndcg_at_10 for limit in limits]},
        "cut",
        [limit.items_with_more for limit in limits],
    )


def _learning(report: Report) -> Plot | None:
    if not report.learning:
        return None
    return Plot(
        "share of users trained on",
        [f"{point.share:.0%}" for point in report.learning],
        {"NDCG@10": [point.ndcg_at_10 for point in report.learning]},
        "pairs",
        [point.pairs for point in report.learning],
    )


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least`; 0.01 where there is nothing to part."""
    if least <= 1e-6:
        return 0.01
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least - 1e-12)
