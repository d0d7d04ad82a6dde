"""The Dagster assets of this step: `review_aspects`, `item_summaries` and `personas`, a partition per catalogue."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from persona4rec_pipeline.automation import CATALOGS
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate
from persona4rec_pipeline.personas.aspects import (
    PROMPTS,
    SLOTS,
    Aspects,
    aspects_request,
    check_aspects,
    extract_aspects,
    ground_aspects,
)
from persona4rec_pipeline.personas.construct import ItemEvidence, Persona, Templates, construct_personas
from persona4rec_pipeline.personas.domains import Domain, bundled_domains, domain_fingerprint, get_domain
from persona4rec_pipeline.personas.grouping import TrainReview
from persona4rec_pipeline.personas.summaries import (
    MAX_FACTS_CHARACTERS,
    ItemFacts,
    ItemSummary,
    check_summary,
    extract_summary,
    item_title,
    known_facts,
    summary_request,
    usable_sentences,
)
from persona4rec_pipeline.personas.tastes import Tastes
from persona4rec_pipeline.personas.wording import PhraseStatistics
from persona4rec_pipeline.presentation import bar_chart, markdown_table, markdown_text
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

LOGIC_VERSION = "1"
# Items whose sentences are embedded and grouped together: bounds the memory, keeps the encoder's batches full.
ITEMS_PER_BATCH = 64
# Train reviews read for the summary of an item that has no metadata.
REVIEWS_PER_SUMMARY = 30


@dg.asset(
    partitions_def=CATALOGS,
    group_name="personas",
    kinds={"vllm", "duckdb"},
    deps=["reviews", "splits"],
    description="What each train review says of its writer's preferences: four slots, each with the span of the review "
    "that supports it. Held-out reviews are never read.",
)
def review_aspects(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    language_model: dg.ResourceParam[LanguageModel],
) -> dg.MaterializeResult:
    catalog = context.partition_key
    domain = catalog_domain(warehouse, settings, catalog)
    reviews = warehouse.rows(
        """SELECT reviews.review_id, reviews.item_id, reviews.user_id, coalesce(items.title, ''), reviews.text
           FROM reviews JOIN splits USING (catalog, review_id)
           LEFT JOIN items ON items.catalog = reviews.catalog AND items.item_id = reviews.item_id
           WHERE reviews.catalog = ? AND splits.split = 'train' ORDER BY reviews.item_id, reviews.review_id""",
        [catalog],
    )
    context.log.info(f"{len(reviews)} train reviews to read")
    fallbacks: Counter[str] = Counter()
    if language_model.is_extractive:
        found = [extract_aspects(text, domain) for *_, text in reviews]
    else:
        template = PromptTemplate.load(PROMPTS, f"review_aspects.{language_model.prompt_profile}.jinja")
        asked = [
            aspects_request(
                f"{catalog}/review/{review_id}", title, text, domain, language_model.prompt_profile, template
            )
            for review_id, _, _, title, text in reviews
        ]
        answers = language_model.generate(
            [request for request in asked if request is not None], check=check_aspects, on_progress=context.log.info
        )
        found = []
        for (*_, text), request in zip(reviews, asked, strict=True):
            if request is None:
                found.append(Aspects(dict.fromkeys(SLOTS), "extractive"))
                continue
            answer = next(answers)
            aspects = ground_aspects(answer.value if answer.ok else {}, text, domain)
            if aspects.source == "extractive":
                fallbacks[answer.reason or "nothing in the answer stands in the review"] += 1
            found.append(aspects)
    rows = [
        (
            catalog,
            review_id,
            item_id,
            user_id,
            *(
                part
                for slot in (aspects.slots[name] for name in SLOTS)
                for part in ((slot.value, [slot.start, slot.end]) if slot else (None, None))
            ),
            aspects.null_fraction <= settings.personas.max_null_fraction,
            aspects.source,
        )
        for (review_id, item_id, user_id, _, _), aspects in zip(reviews, found, strict=True)
    ]
    slots = [column for name in SLOTS for column in (name, f"{name}_span")]
    columns = ["catalog", "review_id", "item_id", "user_id", *slots, "is_evidence", "source"]
    warehouse.replace("review_aspects", pd.DataFrame(rows, columns=columns), catalog)
    filled = {name: sum(aspects.slots[name] is not None for aspects in found) for name in SLOTS}
    sample = [(row[3], *row[4:12:2], row[-1]) for row in rows[:: max(1, len(rows) // 8)][:8]]
    return dg.MaterializeResult(
        metadata={
            "reviews": len(rows),
            "from_model": sum(aspects.source == "llm" for aspects in found),
            "fallbacks": sum(fallbacks.values()),
            "fallback_reasons": dg.MetadataValue.md(markdown_table(["reason", "reviews"], fallbacks.most_common(6))),
            "evidence": sum(row[-2] for row in rows),
            "filled_slots": dg.MetadataValue.md(bar_chart([n.split("_")[0] for n in SLOTS], list(filled.values()),
                                                          "Filled slots", "reviews")),
            "preview": dg.MetadataValue.md(markdown_table(["user", *SLOTS, "source"], sample, 60)),
            **_generation_metadata(language_model, "review_aspects"),
        },
        data_version=dg.DataVersion(warehouse.content_version("review_aspects", catalog)),
    )  # fmt: skip


@dg.asset(
    partitions_def=CATALOGS,
    group_name="personas",
    kinds={"vllm", "duckdb"},
    deps=["items", "reviews", "splits"],
    description="Two or three neutral sentences on each item, from its metadata or, without metadata, from its train "
    "reviews; and a title for items whose source gives none.",
)
def item_summaries(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    language_model: dg.ResourceParam[LanguageModel],
) -> dg.MaterializeResult:
    catalog = context.partition_key
    domain = catalog_domain(warehouse, settings, catalog)
    items = _read_facts(warehouse, catalog, domain)
    summaries = [extract_summary(facts, domain) for facts in items]
    fallbacks: Counter[str] = Counter()
    if not language_model.is_extractive:
        profile = language_model.prompt_profile
        template = PromptTemplate.load(PROMPTS, f"item_summaries.{profile}.jinja")
        asked = [summary_request(facts, domain, profile, template) for facts in items]
        answers = language_model.generate(
            [request for request in asked if request is not None], on_progress=context.log.info
        )
        for row, (facts, request) in enumerate(zip(items, asked, strict=True)):
            if request is None:
                fallbacks["too little is known of the item"] += 1
                continue
            answer = next(answers)
            problem = answer.reason
            if answer.status == "ok":
                material = known_facts(facts, MAX_FACTS_CHARACTERS[profile])
                text, problem = check_summary(material, item_title(facts, domain), answer.value, domain)
                if text is not None:
                    summaries[row] = ItemSummary(summaries[row].title, text, "llm")
                    continue
            fallbacks[problem or "no answer"] += 1
    rows = [(catalog, facts.item_id, s.title, s.summary, s.source) for facts, s in zip(items, summaries, strict=True)]
    frame = pd.DataFrame(rows, columns=["catalog", "item_id", "title", "summary", "source"])
    warehouse.replace("item_summaries", frame, catalog)
    return dg.MaterializeResult(
        metadata={
            "items": len(rows),
            "from_model": sum(summary.source == "llm" for summary in summaries),
            "fallbacks": sum(fallbacks.values()),
            "fallback_reasons": dg.MetadataValue.md(markdown_table(["reason", "items"], fallbacks.most_common(6))),
            "without_metadata": sum(not facts.has_metadata for facts in items),
            "preview": dg.MetadataValue.md(
                markdown_table(["item", "title", "summary", "source"], [row[1:] for row in rows[:6]], 240)
            ),
            **_generation_metadata(language_model, "item_summaries"),
        },
        data_version=dg.DataVersion(warehouse.content_version("item_summaries", catalog)),
    )


@dg.asset(
    partitions_def=CATALOGS,
    group_name="personas",
    kinds={"vllm", "duckdb"},
    deps=["review_aspects", "item_summaries", "reviews", "splits"],
    description="Two to seven kinds of people per item, and why they take to it or do not, each tied to the train "
    "reviews it rests on. What a model writes is checked against that evidence; what fails is replaced by rules.",
)
def personas(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    language_model: dg.ResourceParam[LanguageModel],
    text_encoder: dg.ResourceParam[TextEncoder],
) -> dg.MaterializeResult:
    catalog = context.partition_key
    domain = catalog_domain(warehouse, settings, catalog)
    train_texts = """SELECT reviews.text FROM reviews JOIN splits USING (catalog, review_id)
                     WHERE reviews.catalog = ? AND splits.split = 'train' ORDER BY review_id"""
    statistics = PhraseStatistics.of((text for (text,) in warehouse.rows(train_texts, [catalog])), domain)
    tastes = Tastes(domain, text_encoder.encode)
    model = None if language_model.is_extractive else language_model
    templates = Templates(
        PromptTemplate.load(PROMPTS, "personas.compact.jinja"), PromptTemplate.load(PROMPTS, "personas.full.jinja")
    )
    made: list[Persona] = []
    reviews_of: dict[str, int] = {}
    for batch in _item_batches(warehouse, catalog):
        made += construct_personas(
            batch,
            statistics,
            tastes,
            text_encoder.encode,
            settings.personas,
            domain,
            settings.reviews.positive_rating,
            model,
            templates,
            on_progress=context.log.info,
        )
        reviews_of.update({item.item_id: len(item.reviews) for item in batch})
        context.log.info(f"{len(reviews_of)} items, {len(made)} personas")
    warehouse.replace("personas", _persona_frame(catalog, made), catalog)
    per_item = Counter(persona.item_id for persona in made)
    histogram = Counter(per_item.values())
    sources = Counter(persona.source for persona in made)
    reasons = Counter(persona.fallback_reason for persona in made if persona.fallback_reason)
    sizes = sorted(histogram)
    return dg.MaterializeResult(
        metadata={
            "items": len(per_item),
            "personas": len(made),
            "personas_per_item": float(np.mean(list(per_item.values()))) if per_item else 0.0,
            "from_model": sources["llm"],
            "fallbacks": sum(reasons.values()),
            "fallback_reasons": dg.MetadataValue.md(markdown_table(["reason", "personas"], reasons.most_common(8))),
            "polarity": dg.MetadataValue.md(
                markdown_table(["polarity", "personas"], Counter(persona.polarity for persona in made).most_common())
            ),
            "personas_per_item_histogram": dg.MetadataValue.md(
                bar_chart(sizes, [histogram[size] for size in sizes], "Personas per item", "items")
            ),
            "sample": dg.MetadataValue.md(_sample(made)),
            **_generation_metadata(language_model, "personas"),
        },
        data_version=dg.DataVersion(warehouse.content_version("personas", catalog)),
    )


ASSETS = [review_aspects, item_summaries, personas]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes each asset out of date: logic, prompt, model, and the settings that it reads."""
    model = LanguageModel(settings)
    engine: list[object] = [settings.generation.engine]
    if not model.is_extractive:
        engine += [model.name, model.prompt_profile, model.sampling]
    read = {
        "review_aspects": [settings.personas.domain, settings.personas.max_null_fraction],
        "item_summaries": [settings.personas.domain],
        "personas": [
            settings.personas.model_dump(),
            settings.reviews.positive_rating,
            [domain_fingerprint(name) for name in bundled_domains()],
        ],
    }
    versions = {}
    for name, values in read.items():
        prompt = (
            ""
            if model.is_extractive
            else PromptTemplate.load(PROMPTS, f"{name}.{model.prompt_profile}.jinja").fingerprint
        )
        parts = [LOGIC_VERSION, name, prompt, engine, values]
        versions[name] = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]
    return versions


def catalog_domain(warehouse: Database, settings: Settings, catalog: str) -> Domain:
    """The domain words of a catalogue: its own, else the setting."""
    found = warehouse.rows("SELECT domain FROM catalogs WHERE catalog = ?", [catalog])
    return get_domain((found[0][0] if found else None) or settings.personas.domain)


def _read_facts(warehouse: Database, catalog: str, domain: Domain) -> list[ItemFacts]:
    with warehouse.read() as connection:
        items = connection.execute(
            "SELECT item_id, title, description, categories, attributes FROM items WHERE catalog = ? ORDER BY item_id",
            [catalog],
        ).fetchall()
        # Only items without any metadata need their reviews here.
        texts = connection.execute(
            """SELECT reviews.item_id, reviews.text FROM reviews
               JOIN splits USING (catalog, review_id) JOIN items USING (catalog, item_id)
               WHERE catalog = $catalog AND splits.split = 'train'
                 AND items.title IS NULL AND items.description IS NULL
               QUALIFY row_number() OVER (PARTITION BY reviews.item_id ORDER BY review_id) <= $most
               ORDER BY reviews.item_id, review_id""",
            {"catalog": catalog, "most": REVIEWS_PER_SUMMARY},
        ).fetchall()
    texts_of: dict[str, list[str]] = defaultdict(list)
    for item_id, text in texts:
        texts_of[item_id].append(text)
    return [
        ItemFacts(
            catalog,
            item_id,
            title,
            description,
            tuple(categories or ()),
            attributes,
            usable_sentences(texts_of[item_id], domain, 40),
        )
        for item_id, title, description, categories, attributes in items
    ]


def _item_batches(warehouse: Database, catalog: str) -> Iterator[list[ItemEvidence]]:
    """The catalogue's items with their evidence, a batch at a time, no lock held while a batch is worked on."""
    last = ""
    while True:
        with warehouse.read() as connection:
            items = connection.execute(
                """SELECT item_summaries.item_id, item_summaries.title, item_summaries.summary, items.categories
                   FROM item_summaries JOIN items USING (catalog, item_id)
                   WHERE catalog = ? AND item_id > ? ORDER BY item_id LIMIT ?""",
                [catalog, last, ITEMS_PER_BATCH],
            ).fetchall()
            if not items:
                return
            reviews = connection.execute(
                f"""SELECT reviews.item_id, review_id, reviews.text, reviews.is_positive, reviews.rating,
                           {", ".join(f"review_aspects.{name}" for name in SLOTS)}
                    FROM reviews JOIN review_aspects USING (catalog, review_id) JOIN splits USING (catalog, review_id)
                    WHERE catalog = ? AND review_aspects.is_evidence AND splits.split = 'train'
                      AND reviews.item_id BETWEEN ? AND ? ORDER BY reviews.item_id, review_id""",
                [catalog, items[0][0], items[-1][0]],
            ).fetchall()
        reviews_of: dict[str, list[TrainReview]] = defaultdict(list)
        tuples_of: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for item_id, review_id, text, is_positive, rating, *values in reviews:
            reviews_of[item_id].append(TrainReview(review_id, text, is_positive, rating))
            said = "; ".join(f"{name.replace('_', ' ')}: {v}" for name, v in zip(SLOTS, values, strict=True) if v)
            verdict = "liked" if is_positive else "not liked"
            tuples_of[item_id].append((review_id, f"({verdict}) {said}"))
        yield [
            ItemEvidence(
                catalog,
                item_id,
                title,
                summary,
                tuple(categories or ()),
                tuple(reviews_of[item_id]),
                tuple(tuples_of[item_id]),
            )
            for item_id, title, summary, categories in items
        ]
        last = items[-1][0]


def _persona_frame(catalog: str, made: list[Persona]) -> pd.DataFrame:
    columns = [
        "catalog", "item_id", "persona_id", "name", "description", "preference_rationale", "polarity",
        "evidence_review_ids", "quotes", "support", "source", "fallback_reason",
    ]  # fmt: skip
    rows = [
        (
            catalog,
            persona.item_id,
            persona.persona_id,
            persona.name,
            persona.description,
            persona.preference_rationale,
            persona.polarity,
            list(persona.evidence_review_ids),
            list(persona.quotes),
            persona.support,
            persona.source,
            persona.fallback_reason,
        )
        for persona in made
    ]
    return pd.DataFrame(rows, columns=columns)


def _sample(made: list[Persona]) -> str:
    parts = []
    for persona in made[:: max(1, len(made) // 3)][:3]:
        quotes = "\n".join(f"> {markdown_text(quote, 220)}\n" for quote in persona.quotes)
        parts.append(
            f"**{markdown_text(persona.name)}** ({persona.polarity}, {persona.source}, item "
            f"{markdown_text(persona.item_id)})\n\n{markdown_text(persona.description, 600)}\n\n"
            f"*{markdown_text(persona.preference_rationale, 320)}*\n\n{quotes}"
        )
    return "\n\n---\n\n".join(parts)


def _generation_metadata(language_model: LanguageModel, task: str) -> dict[str, Any]:
    """What the task has cost in this run, for the UI; nothing for the extractive engine."""
    if language_model.is_extractive:
        return {"engine": "extractive"}
    return {"engine": language_model.name, **language_model.costs_of(task)}
