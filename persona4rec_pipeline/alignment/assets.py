"""The Dagster asset of this step: `alignment_pairs`."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence

import dagster as dg
import numpy as np
import pandas as pd

from persona4rec_pipeline.alignment.judge import (
    Choice,
    Option,
    PastInteraction,
    Verdict,
    judge_by_model,
    judge_by_similarity,
    judge_requests,
)
from persona4rec_pipeline.automation import MODEL_POOL, patient
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate, Request
from persona4rec_pipeline.personas.aspects import SLOTS
from persona4rec_pipeline.personas.domains import Domain, get_domain
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

PROMPTS = "persona4rec_pipeline.alignment.prompts"
LOGIC_VERSION = "1"

# Every positive train interaction of a user, with the earlier positive train interactions that explain it.
_CHOICES = """
WITH liked AS (
    SELECT reviews.catalog, reviews.review_id, reviews.user_id, reviews.item_id, reviews.reviewed_at
    FROM reviews JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND reviews.is_positive
), numbered AS (
    SELECT *,
        lag(reviewed_at) OVER recent IS NOT NULL AS has_earlier,
        row_number() OVER (PARTITION BY user_id ORDER BY reviewed_at DESC, review_id DESC) AS newest,
        array_agg(review_id) OVER (recent ROWS BETWEEN $max_history PRECEDING AND 1 PRECEDING) AS history
    FROM liked
    WINDOW recent AS (PARTITION BY user_id ORDER BY reviewed_at, review_id)
)
SELECT catalog, review_id, user_id, item_id, reviewed_at, list_reverse(history) AS history
FROM numbered WHERE has_earlier AND newest <= $max_pairs
ORDER BY catalog, item_id, review_id
"""


@dg.asset(
    pool=MODEL_POOL,
    group_name="alignment",
    kinds={"vllm", "duckdb"},
    deps=["splits", "review_aspects", "item_summaries", "personas"],
    description="For each past choice with a history: which persona of the item explains it, judged from earlier "
    "interactions alone, with the probability of every option. The encoder learns from these pairs.",
)
@patient
def alignment_pairs(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    language_model: dg.ResourceParam[LanguageModel],
    text_encoder: dg.ResourceParam[TextEncoder],
) -> dg.MaterializeResult:
    choices, times = _read_choices(warehouse, settings)
    context.log.info(f"{len(choices)} choices to explain")
    verdicts: list[Verdict]
    if language_model.is_extractive:
        verdicts = judge_by_similarity(
            choices,
            lambda texts: text_encoder.encode(texts, on_progress=context.log.info),
            settings.encoder.recency_decay,
        )
        failed = 0
    else:
        domains, template = _domains(warehouse, settings, choices), _template(language_model)
        answers = list(judge_by_model(choices, domains, language_model, template, on_progress=context.log.info))
        verdicts = [verdict for verdict in answers if verdict is not None]
        failed = len(answers) - len(verdicts)
    rows = pd.DataFrame([_row(verdict, times) for verdict in verdicts], columns=_COLUMNS)
    warehouse.replace("alignment_pairs", rows)
    decided = [verdict for verdict in verdicts if len(verdict.choice.options) > 1]
    return dg.MaterializeResult(
        metadata={
            "pairs": len(verdicts),
            "judged": len(decided),
            "failed": failed,
            "users": len({verdict.choice.user_id for verdict in verdicts}),
            "mean_probability": float(np.mean([max(v.probabilities) for v in decided])) if decided else 1.0,
            "mean_options": float(np.mean([len(v.choice.options) for v in decided])) if decided else 1.0,
            "judge": language_model.name if not language_model.is_extractive else "similarity",
            "preview": dg.MetadataValue.md(_preview(verdicts)),
            **({} if language_model.is_extractive else language_model.costs_of("alignment_pairs")),
        },
        data_version=dg.DataVersion(warehouse.content_version("alignment_pairs")),
    )


ASSETS = [alignment_pairs]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes the pairs out of date: logic, prompt, model, sampling, and the settings that it reads."""
    model = LanguageModel(settings)
    judge: list[object] = [settings.personas.embedding_model]
    if not model.is_extractive:
        prompt = PromptTemplate.load(PROMPTS, f"alignment_pairs.{model.prompt_profile}.jinja").fingerprint
        judge = [prompt, model.name, model.sampling]
    parts = [
        LOGIC_VERSION,
        settings.generation.engine,
        judge,
        settings.alignment.model_dump(),
        settings.encoder.recency_decay,
    ]
    return {"alignment_pairs": hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]}


_COLUMNS = [
    "catalog", "review_id", "user_id", "item_id", "persona_id", "probability", "option_ids",
    "option_probabilities", "history_review_ids", "reviewed_at", "source",
]  # fmt: skip


def _row(verdict: Verdict, times: dict[str, pd.Timestamp]) -> tuple:
    choice = verdict.choice
    return (
        choice.catalog,
        choice.review_id,
        choice.user_id,
        choice.item_id,
        choice.options[verdict.best].persona_id,
        verdict.probabilities[verdict.best],
        [option.persona_id for option in choice.options],
        list(verdict.probabilities),
        [entry.review_id for entry in choice.history],
        times[choice.review_id],
        verdict.source,
    )


def _read_choices(warehouse: Database, settings: Settings) -> tuple[list[Choice], dict[str, pd.Timestamp]]:
    with warehouse.read() as connection:
        asked = connection.execute(
            _CHOICES.replace("$max_history", str(settings.alignment.max_history)).replace(
                "$max_pairs", str(settings.alignment.max_pairs_per_user)
            )
        ).fetchall()
        wanted = sorted({review_id for row in asked for review_id in row[5]})
        connection.register("wanted", pd.DataFrame({"review_id": pd.Series(wanted, dtype="str")}))
        past_rows = connection.execute(
            f"""SELECT review_id, coalesce(item_summaries.title, ''), coalesce(item_summaries.summary, ''),
                       {", ".join(SLOTS)}
                FROM wanted JOIN reviews USING (review_id)
                LEFT JOIN review_aspects USING (catalog, review_id)
                LEFT JOIN item_summaries ON item_summaries.catalog = reviews.catalog
                    AND item_summaries.item_id = reviews.item_id"""
        ).fetchall()
        summary_rows = connection.execute("SELECT catalog, item_id, title, summary FROM item_summaries").fetchall()
        persona_rows = connection.execute(
            "SELECT catalog, item_id, persona_id, name, description, preference_rationale FROM personas "
            "WHERE polarity <> 'critical' ORDER BY catalog, item_id, persona_id"
        ).fetchall()
    past = {
        row[0]: PastInteraction(row[0], row[1], row[2], dict(zip(SLOTS, row[3:], strict=True))) for row in past_rows
    }
    summaries = {(row[0], row[1]): (row[2], row[3]) for row in summary_rows}
    options: dict[tuple[str, str], list[Option]] = defaultdict(list)
    for row in persona_rows:
        options[row[0], row[1]].append(Option(*row[2:]))
    choices: list[Choice] = []
    times: dict[str, pd.Timestamp] = {}
    for catalog, review_id, user_id, item_id, reviewed_at, history in asked:
        found = options.get((catalog, item_id))
        if not found:
            continue  # its personas are not made yet; the asset runs again when they are
        title, summary = summaries[catalog, item_id]
        entries = tuple(past[earlier] for earlier in history)
        choices.append(Choice(catalog, review_id, user_id, item_id, title, summary, entries, tuple(found)))
        times[review_id] = reviewed_at
    return choices, times


def pairs_to_ask_for(warehouse: Database, settings: Settings, model: LanguageModel) -> list[Request]:
    """What `alignment_pairs` would ask the model now, whether the ledger knows the answers or not."""
    choices, _ = _read_choices(warehouse, settings)
    return judge_requests(choices, _domains(warehouse, settings, choices), _template(model))


def _template(model: LanguageModel) -> PromptTemplate:
    return PromptTemplate.load(PROMPTS, f"alignment_pairs.{model.prompt_profile}.jinja")


def _domains(warehouse: Database, settings: Settings, choices: Sequence[Choice]) -> dict[str, Domain]:
    stated = dict(warehouse.rows("SELECT catalog, domain FROM catalogs"))
    names = {choice.catalog for choice in choices}
    return {name: get_domain(stated.get(name) or settings.personas.domain) for name in names}


def _preview(verdicts: list[Verdict]) -> str:
    rows = []
    for verdict in verdicts[:: max(1, len(verdicts) // 8)][:8]:
        choice = verdict.choice
        after = "; ".join(entry.title for entry in choice.history[:3])
        rows.append((choice.title, choice.options[verdict.best].name, max(verdict.probabilities), after))
    return markdown_table(["liked", "because they are", "probability", "after"], rows)
