"""The pictures of the report. Belongs here: drawing what `report` computed. Does not belong here: computing it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from persona4rec_pipeline.evaluation.report import HEADLINE, REPORTED_SPLIT, Report, Table
from persona4rec_pipeline.evaluation.significance import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILL, OTHER = "#4f6d9a", "#c07b3a"
EDGE = "#333333"
MARKERS = "osD^vXP*<>h"


def gains_chart(table: Table, split: str = REPORTED_SPLIT, metric: str = HEADLINE) -> str:
    """A markdown image, PNG inside: each ranking's mean of `metric` with its 95 % interval; empty without users."""
    if not table.users[split]:
        return ""
    estimates = [ranking.estimates(split)[metric] for ranking in table.rankings]
    figure, axes = _figure(2.4)
    places = range(len(estimates))
    axes.barh(places, [e.value for e in estimates], xerr=_around(estimates), color=FILL, ecolor=EDGE, capsize=4)
    axes.set_yticks(places, [_words(ranking.name) for ranking in table.rankings])
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}, {table.users[split]} users, split {split}, 95 % interval")
    return f"![{metric} by ranking]({_image(figure, 'png')})"


def latency_chart(report: Report) -> str:
    """NDCG@10 against the time of a request, as a data URI: rows that have both; empty without any.

    With rerankers all rows are those of the users on whom these were compared.
    """
    table = report.peers or (report.tables[0] if report.tables else None)
    timed = [ranking for ranking in table.rankings if _milliseconds(report, ranking.name)] if table else []
    if not timed:
        return ""
    figure, axes = _figure(3.4)
    for place, ranking in enumerate(timed):
        milliseconds, found = _milliseconds(report, ranking.name), ranking.estimates(REPORTED_SPLIT)[HEADLINE]
        colour = OTHER if ranking.name.startswith("llm_") else FILL
        axes.errorbar(
            milliseconds,
            found.value,
            yerr=_around([found]),
            fmt=MARKERS[place % len(MARKERS)],
            color=colour,
            elinewidth=0.7,
            label=_words(ranking.name),
        )
    # Beside the axes: rows of one kind cost nearly the same, and names at the points would cover each other.
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel("milliseconds per request, alone (logarithmic)")
    axes.set_ylabel("NDCG@10, 95 % interval")
    return _image(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    """An empty one, 6 inches wide, with one pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, height), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _image(figure: Figure, kind: str = "svg") -> str:
    """As a data URI; equal figures give equal ones."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "persona4rec"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    mime = "svg+xml" if kind == "svg" else kind
    return f"data:image/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _around(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the intervals below and above the values."""
    # An interval of resampled means may, on very few users, not hold the mean itself.
    return [[max(0.0, e.value - e.low) for e in estimates], [max(0.0, e.high - e.value) for e in estimates]]


def _milliseconds(report: Report, name: str) -> float:
    """0 for what is not timed."""
    return (report.costs[name].milliseconds or 0.0) if name in report.costs else 0.0


def _words(name: str) -> str:
    return name.replace("_", " ").replace("llm ", "LLM ")
