"""The Dagster asset of this step: `alignment_pairs`."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import dagster as dg
import numpy as np
import pandas as pd

from persona4rec_pipeline.alignment.figures import judge_figures
from persona4rec_pipeline.alignment.judge import (
    Choice,
    Option,
    PastInteraction,
    Verdict,
    judge_by_model,
    judge_requests,
    trusted_verdict,
)
from persona4rec_pipeline.alignment.similarity import judge_by_similarity, reviews_to_read
from persona4rec_pipeline.automation import MODEL_POOL, patient
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate, Request
from persona4rec_pipeline.personas.aspects import SLOTS
from persona4rec_pipeline.personas.domains import Domain, get_domain
from persona4rec_pipeline.personas.wording import claim
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

PROMPTS = "persona4rec_pipeline.alignment.prompts"
LOGIC_VERSION = "4"
# Settings that only training reads.
_NOT_OF_JUDGING = {"flat_pairs", "flat_entropy"}

# Every positive train review of a user, with the earlier positive train interactions that explain it. What has the same time
# is not earlier, in whatever order it was stored. A click explains others and is not explained: each would cost a question
# to the model, and there are many more of them than of choices that somebody cared to write about.
_CHOICES = """
WITH liked AS (
    SELECT reviews.catalog, reviews.review_id, reviews.user_id, reviews.item_id, reviews.reviewed_at,
        reviews.text <> '' AS speaks
    FROM reviews JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND reviews.is_positive
), past AS (
    SELECT user_id, array_agg(review_id ORDER BY reviewed_at, review_id) AS review_ids FROM liked GROUP BY user_id
), numbered AS (
    SELECT *,
        rank() OVER (PARTITION BY user_id ORDER BY reviewed_at) - 1 AS earlier,
        row_number() OVER (PARTITION BY user_id, speaks ORDER BY reviewed_at DESC, review_id DESC) AS newest
    FROM liked
)
SELECT catalog, review_id, user_id, item_id, reviewed_at,
       list_reverse(review_ids[greatest(earlier - $max_history, 0) + 1 : earlier]) AS history
FROM numbered JOIN past USING (user_id)
WHERE speaks AND earlier > 0 AND newest <= $max_pairs
ORDER BY catalog, item_id, review_id
"""

# Users, and their choices that have something earlier.
_COUNTS = """
WITH numbered AS (
    SELECT reviews.text <> '' AS speaks,
        rank() OVER (PARTITION BY reviews.user_id ORDER BY reviews.reviewed_at) - 1 AS earlier,
        row_number() OVER (
            PARTITION BY reviews.user_id, speaks ORDER BY reviews.reviewed_at DESC, review_id DESC
        ) AS newest
    FROM reviews JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND reviews.is_positive
)
SELECT count(*) FILTER (newest <= $max_pairs), count(*) FILTER (newest > $max_pairs) FROM numbered
WHERE speaks AND earlier > 0
"""


@dataclass(frozen=True)
class ChoiceCounts:
    """Choices that have an earlier one of the same user: those that are explained, and those that are left out because
    their user has `alignment.max_pairs_per_user` more recent ones."""

    explained: int
    left_out: int


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
    by_similarity = judge_by_similarity(
        choices,
        _read_texts(warehouse, choices),
        lambda texts: text_encoder.encode(texts, on_progress=context.log.info),
        settings.encoder.recency_decay,
    )
    answers: list[Verdict | None] = [*by_similarity]
    if not language_model.is_extractive:
        domains, template = _domains(warehouse, settings, choices), _template(language_model)
        orders = settings.alignment.option_orders
        answers = list(judge_by_model(choices, domains, language_model, template, orders, context.log.info))
    both = list(zip(answers, by_similarity, strict=True))
    verdicts = [trusted_verdict(answer, similar, settings.alignment.max_entropy) for answer, similar in both]
    rows = pd.DataFrame(
        [_row(verdict, similar, times) for verdict, similar in zip(verdicts, by_similarity, strict=True)],
        columns=_COLUMNS,
    )
    warehouse.replace("alignment_pairs", rows)
    decided = [verdict for verdict in verdicts if len(verdict.choice.options) > 1]
    figures = judge_figures(warehouse)
    return dg.MaterializeResult(
        metadata={
            "pairs": len(verdicts),
            "judged": len(decided),
            "failed": sum(answer is None for answer in answers),
            "one_order_failed": sum(answer.failed > 0 for answer in answers if answer is not None),
            "judged_by_similarity": sum(verdict.source == "similarity" for verdict in decided),
            "left_out_by_limit": count_choices(warehouse, settings).left_out,
            "users": len({verdict.choice.user_id for verdict in verdicts}),
            "mean_probability": float(np.mean([max(v.probabilities) for v in decided])) if decided else 1.0,
            "mean_options": float(np.mean([len(v.choice.options) for v in decided])) if decided else 1.0,
            "judge": language_model.name if not language_model.is_extractive else "similarity",
            **figures.main(),
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
        prompt = _template(model).fingerprint
        judge += [prompt, model.name, model.sampling, settings.generation.context_length]
    parts = [
        LOGIC_VERSION,
        settings.generation.engine,
        judge,
        settings.alignment.model_dump(exclude=_NOT_OF_JUDGING),
        settings.encoder.recency_decay,
    ]
    return {"alignment_pairs": hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]}


_COLUMNS = [
    "catalog", "review_id", "user_id", "item_id", "persona_id", "probability", "option_ids",
    "option_probabilities", "history_review_ids", "shown_orders", "order_probabilities", "similarity_persona_id",
    "entropy", "reviewed_at", "source",
]  # fmt: skip


def _row(verdict: Verdict, similar: Verdict, times: dict[str, pd.Timestamp]) -> tuple:
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
        [list(order) for order in verdict.orders] or None,
        [list(probabilities) for probabilities in verdict.by_order] or None,
        choice.options[similar.best].persona_id,
        verdict.entropy,
        times[choice.review_id],
        verdict.source,
    )


def count_choices(warehouse: Database, settings: Settings) -> ChoiceCounts:
    """How many choices there are to explain, whether their items have personas yet or not."""
    limit = {"max_pairs": settings.alignment.max_pairs_per_user}
    return ChoiceCounts(*warehouse.rows(_COUNTS, limit)[0])


def _read_choices(warehouse: Database, settings: Settings) -> tuple[list[Choice], dict[str, pd.Timestamp]]:
    limits = {
        "max_history": settings.alignment.max_history,
        "max_pairs": settings.alignment.max_pairs_per_user,
    }
    with warehouse.read() as connection:
        asked = connection.execute(_CHOICES, limits).fetchall()
        wanted = sorted({review_id for row in asked for review_id in row[5]})
        connection.register("wanted", pd.DataFrame({"review_id": pd.Series(wanted, dtype="str")}))
        past_rows = connection.execute(
            f"""SELECT review_id, reviews.catalog, reviews.item_id, coalesce(item_summaries.title, ''),
                       coalesce(item_summaries.summary, ''), {", ".join(SLOTS)}
                FROM wanted JOIN reviews USING (review_id)
                LEFT JOIN review_aspects USING (catalog, review_id)
                LEFT JOIN item_summaries ON item_summaries.catalog = reviews.catalog
                    AND item_summaries.item_id = reviews.item_id"""
        ).fetchall()
        summary_rows = connection.execute("SELECT catalog, item_id, title, summary FROM item_summaries").fetchall()
        persona_rows = connection.execute(
            "SELECT catalog, item_id, persona_id, name, description, preference_rationale, evidence_review_ids "
            "FROM personas WHERE polarity <> 'critical' ORDER BY catalog, item_id, persona_id"
        ).fetchall()
        connection.register("asked", pd.DataFrame({"review_id": pd.Series([row[1] for row in asked], dtype="str")}))
        own = dict(
            connection.execute(
                """SELECT asked.review_id, array_agg(own.review_id)
                   FROM asked JOIN reviews USING (review_id) JOIN reviews AS own USING (catalog, user_id, item_id)
                   GROUP BY asked.review_id"""
            ).fetchall()
        )
    summaries = {(row[0], row[1]): (row[2], row[3]) for row in summary_rows}
    options: dict[tuple[str, str], list[Option]] = defaultdict(list)
    for catalog, item_id, persona_id, name, description, rationale, voices in persona_rows:
        options[catalog, item_id].append(Option(persona_id, name, description, rationale, tuple(sorted(voices))))
    past = {row[0]: _past(row, options.get((row[1], row[2]), ())) for row in past_rows}
    choices: list[Choice] = []
    times: dict[str, pd.Timestamp] = {}
    for catalog, review_id, user_id, item_id, reviewed_at, history in asked:
        found = options.get((catalog, item_id))
        if not found:
            continue  # its personas are not made yet; the asset runs again when they are
        title, summary = summaries[catalog, item_id]
        entries = tuple(past[earlier] for earlier in history)
        offered = tuple(_without(option, own[review_id]) for option in found)
        choices.append(Choice(catalog, review_id, user_id, item_id, title, summary, entries, offered))
        times[review_id] = reviewed_at
    return choices, times


def _past(row: tuple, personas: Sequence[Option]) -> PastInteraction:
    review_id, _, _, title, summary, *slots = row
    spoken_for = [persona for persona in personas if review_id in persona.voices]
    kin = sorted({voice for persona in spoken_for for voice in persona.voices})
    claims = tuple(claim(persona.name, persona.description) for persona in spoken_for)
    return PastInteraction(review_id, title, summary, dict(zip(SLOTS, slots, strict=True)), tuple(kin), claims)


def _without(option: Option, review_ids: Sequence[str]) -> Option:
    return replace(option, voices=tuple(voice for voice in option.voices if voice not in review_ids))


def _read_texts(warehouse: Database, choices: Sequence[Choice]) -> dict[str, str]:
    """Texts of the train reviews that similarity reads."""
    wanted = pd.DataFrame({"review_id": pd.Series(sorted(reviews_to_read(choices)), dtype="str")})
    with warehouse.read() as connection:
        connection.register("wanted", wanted)
        return dict(
            connection.execute(
                "SELECT review_id, text FROM reviews SEMI JOIN wanted USING (review_id) "
                "JOIN splits USING (catalog, review_id) WHERE split = 'train'"
            ).fetchall()
        )


def pairs_to_ask_for(warehouse: Database, settings: Settings, model: LanguageModel) -> list[Request]:
    """What `alignment_pairs` would ask the model now, whether the ledger knows the answers or not."""
    choices, _ = _read_choices(warehouse, settings)
    domains, orders = _domains(warehouse, settings, choices), settings.alignment.option_orders
    return judge_requests(choices, domains, model, _template(model), orders)


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
