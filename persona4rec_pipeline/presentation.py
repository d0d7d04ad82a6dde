"""Ground floor: tables and plots for the metadata that the Dagster UI shows.

Belongs here: turning counts and rows into Markdown. Review text and model text are hostile: every cell is escaped, so
that nothing in it becomes markup, a link or a further column. Does not belong here: deciding what to show.
"""

from __future__ import annotations

import base64
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
# What renderers make a link of without being told to: an address, a host that begins with www, an e-mail address.
_ADDRESS = re.compile(r"\b[a-z][a-z+]*:/|\bwww\.|\bmailto:|(?<=\w)@(?=\w)", re.IGNORECASE)


def markdown_text(value: Any, max_characters: int = 160) -> str:
    """One line of escaped Markdown that renders as the plain text of `value`, cut at `max_characters`."""
    line = " ".join(str("" if value is None else value).split())
    if len(line) > max_characters:
        line = line[: max_characters - 1].rstrip() + "…"
    line = "".join(character for character in line if unicodedata.category(character) not in ("Cc", "Cf", "Cs"))
    # A bare address would still be made a link by most renderers.
    line = _ADDRESS.sub(lambda found: f"{found.group()[:-1]}\u200b{found.group()[-1]}", line)
    return _MARKDOWN.sub(r"\\\1", line)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], max_characters: int = 160) -> str:
    """A Markdown table of escaped cells; floats with four digits."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [f"{cell:.4f}" if isinstance(cell, float) else markdown_text(cell, max_characters) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bar_chart(labels: Sequence[Any], values: Sequence[float], title: str, y_label: str) -> str:
    """A bar chart as a Markdown image with its PNG inside (about 10 kB)."""
    figure, axes = _figure(title, y_label)
    # A dollar sign would open a formula.
    axes.bar([str(label).replace("$", r"\$") for label in labels], values, color="#4f6d9a")
    return image(figure, title)


def image(figure: Any, title: str) -> str:
    """A matplotlib figure as a Markdown image with its PNG inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def _figure(title: str, y_label: str) -> tuple[Any, Any]:
    # The object-oriented interface: pyplot keeps global state, which threads of a server would share.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
