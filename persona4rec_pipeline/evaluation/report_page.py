"""The evaluation report as one HTML page that needs nothing else: style inside, no script, nothing loaded.

Belongs here: rendering. Does not belong here: the figures (`report.py`).
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from persona4rec_pipeline.evaluation.curves import render_curves
from persona4rec_pipeline.evaluation.figures import latency_chart
from persona4rec_pipeline.evaluation.report import BLEND, CANDIDATE_ORDER, HEADLINE, REPORTED_SPLIT, Report
from persona4rec_pipeline.evaluation.significance import Estimate
from persona4rec_pipeline.settings import Settings

# What each row is, in words for who did not write it.
ROWS = {
    "candidate_order": "as the generator proposed them",
    "random": "drawn by lot",
    "item_summary": "nearest item summaries, base encoder",
    "single_persona": "the one persona that most reviews speak for, trained encoder",
    "extractive_personas": "nearest persona written by rules, trained encoder",
    "personas_untrained": "nearest persona, base encoder",
    "personas_trained": "nearest persona, trained encoder",
    "blend": "candidate order and personas of the encoder in use, weights learned",
    "llm_pointwise": "a language model: yes or no to each candidate, probability of yes",
    "llm_pointwise_few_shot": "the same, after decisions of other users",
    "llm_listwise": "a language model orders windows of candidates",
    "llm_profile_score": "a language model writes a profile, then rates each candidate",
}
PROTOCOLS = {
    "last_positive": "The last two liked items of each user of the panel are held out, with all that came after them.",
    "temporal": "Everything from a moment on is held out, of everybody; the target is the first liked item after it.",
}


def render_report(report: Report, settings: Settings) -> str:
    """The page; without tables it says that there is nobody to evaluate on."""
    here = files(__package__)
    style = here.joinpath("pages.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(here.joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        main=report.tables[0] if report.tables else None,
        style=style,
        # The page's policy allows this very style and no other.
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
        rows=ROWS,
        protocol=PROTOCOLS[settings.splits.protocol],
        split=REPORTED_SPLIT,
        headline=HEADLINE,
        first=CANDIDATE_ORDER,
        blended=BLEND,
        estimate=Estimate.of,
        curves=render_curves(report),
        latency=latency_chart(report),
    )
