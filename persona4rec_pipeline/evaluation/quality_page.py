"""The quality report as a page and as JSON: written beside each other, logged to MLflow, and deleted again.

Belongs here: rendering, the files under `reports/`, the run in MLflow. Does not belong here: the figures (`quality.py`).

Names, quotes and reasons come from strangers and from models: the page escapes everything, holds no script, loads nothing,
and forbids both to a browser that would. It quotes reviews, so it is among what a forgotten user may ask to be deleted.
"""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from persona4rec_pipeline.evaluation.quality import (
    DEFAULT_SEED,
    POLARITIES,
    RATINGS,
    SOURCES,
    Encodes,
    Quality,
    measure_quality,
)
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import Database

EXPERIMENT = "quality"
# Names of the files in MLflow; on disk the name of a single catalogue is a part of it.
PAGE_FILE, JSON_FILE = "quality.html", "quality.json"
SOURCE_WORDS = {"llm": "language model", "extractive": "rules", "summary": "item summary"}
# Control characters, and those that change the direction of all that follows on the line.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class QualityReport:
    """Figures, and where their page and JSON lie. mlflow_run: None where there was no persona to report on."""

    quality: Quality
    page: Path
    json: Path
    mlflow_run: str | None


def report_quality(
    settings: Settings,
    warehouse: Database,
    tracking: Tracking,
    text_encoder: Encodes | None,
    catalog: str | None = None,
    folder: Path | None = None,
    seed: int = DEFAULT_SEED,
) -> QualityReport:
    """Measure, write `quality.html` and `quality.json` into `folder` (default: `settings.reports_path`), and log both to MLflow.

    The files of a single catalogue are named `quality-CATALOG`. A reader sees the old file or the new one.
    """
    quality = measure_quality(warehouse, text_encoder, catalog, settings, seed)
    page, document = render_page(quality), quality.to_json()
    folder = folder or settings.reports_path
    stem = "quality" if catalog is None else f"quality-{catalog}"
    page_path, json_path = folder / f"{stem}.html", folder / f"{stem}.json"
    _write(page_path, page)
    _write(json_path, document)
    run_id = None
    if quality.personas:
        tags = {"data_version": version_of(quality), "catalog": catalog or "all"}
        with tracking.run(EXPERIMENT, f"{stem}-{tags['data_version'][:8]}", tags) as run:
            run.log_params({"catalog": tags["catalog"], "seed": seed})
            run.log_metrics(quality.main_figures())
            run.log_text(page, PAGE_FILE)
            run.log_text(document, JSON_FILE)
        run_id = run.run_id
    return QualityReport(quality, page_path, json_path, run_id)


def version_of(quality: Quality) -> str:
    """16 hexadecimal digits; equal figures, equal version."""
    return hashlib.sha256(quality.to_json().encode()).hexdigest()[:16]


def delete_reports(settings: Settings, tracking: Tracking) -> int:
    """Delete every quality report under the state directory, in MLflow too: they quote reviews. Returns how many files.

    The metrics of their runs stay. What was written elsewhere with `--output` is the user's own.
    """
    found = [path for path in settings.reports_path.glob("quality*") if path.suffix in (".html", ".json")]
    for path in found:
        path.unlink()
    return len(found) + tracking.delete_files(EXPERIMENT, (PAGE_FILE, JSON_FILE))


def render_page(quality: Quality) -> str:
    """The report as one HTML page that needs nothing else: style inside, no script, nothing loaded."""
    here = files(__package__)
    style = here.joinpath("pages.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["plain"] = plain
    template = environment.from_string(here.joinpath("quality.html.jinja").read_text(encoding="utf-8"))
    present = {entry.source for entry in quality.acceptance.by_source if entry.published}
    judge = quality.judge
    return template.render(
        quality=quality,
        style=style,
        # The page's policy allows this very style and no other.
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
        everyone=next((group for group in quality.support.groups if group.group == "all"), None),
        sources=SOURCE_WORDS,
        written=[source for source in SOURCES if source in present],
        polarities=POLARITIES,
        ratings=RATINGS,
        judge=[
            ("mean entropy", judge.mean_entropy),
            ("position bias of a single order", judge.position_bias_before),
            ("position bias after averaging over orders", judge.position_bias_after),
            ("share of choices that change with the order", judge.order_flips),
            ("agreement with similarity", judge.agreement),
            ("agreement that chance would give", judge.agreement_by_chance),
            ("kappa", judge.kappa),
        ],
    )


def plain(text: str, max_characters: int = 120) -> str:
    """One line of `text` without control characters and without marks that turn the direction of writing, cut."""
    kept = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or (unicodedata.category(character) != "Cc" and character not in _DIRECTIONS)
    )
    line = " ".join(kept.split())
    return line if len(line) <= max_characters else line[: max_characters - 1].rstrip() + "…"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The command and the asset may write at the same time.
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
