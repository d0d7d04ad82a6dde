"""The picture of the report. Belongs here: drawing what `report` computed. Does not belong here: computing it."""

from __future__ import annotations

import base64
import io

from persona4rec_pipeline.evaluation.report import HEADLINE, REPORTED_SPLIT, Table


def gains_chart(table: Table, split: str = REPORTED_SPLIT, metric: str = HEADLINE) -> str:
    """A markdown image, PNG inside: each ranking's mean of `metric` with its 95 % interval; empty without users."""
    if not table.users[split]:
        return ""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    estimates = [ranking.estimates(split)[metric] for ranking in table.rankings]
    # An interval of resampled means may, on very few users, not hold the mean itself.
    below = [max(0.0, e.value - e.low) for e in estimates]
    above = [max(0.0, e.high - e.value) for e in estimates]
    figure = Figure(figsize=(6, 2.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(estimates))
    axes.barh(places, [e.value for e in estimates], xerr=[below, above], color="#4f6d9a", ecolor="#333333", capsize=4)
    axes.set_yticks(places, [ranking.name.replace("_", " ") for ranking in table.rankings])
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}, {table.users[split]} users, split {split}, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f"![{metric} by ranking](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
