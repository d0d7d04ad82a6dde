"""The Dagster assets of this step: `review_aspects`, `item_summaries` and `personas`, a partition per catalogue."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import dagster as dg
import pandas as pd

from persona4rec_pipeline.automation import CATALOGS, MODEL_POOL, patient
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate, Request
from persona4rec_pipeline.personas.aspects import PROMPTS, SLOTS
from persona4rec_pipeline.personas.domains import Domain, bundled_domains, domain_fingerprint, get_domain
from persona4rec_pipeline.personas.refresh import refresh_aspects, refresh_personas
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
from persona4rec_pipeline.presentation import bar_chart, markdown_table, markdown_text
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

LOGIC_VERSION = "5"
# Train reviews read for the summary of an item that has no metadata.
REVIEWS_PER_SUMMARY = 30


@dg.asset(
    pool=MODEL_POOL,
    partitions_def=CATALOGS,
    group_name="personas",
    kinds={"vllm", "duckdb"},
    deps=["reviews", "splits"],
    description="What each train review says of its writer's preferences: four slots, each with the span of the review "
    "that supports it. Held-out reviews are never read.",
)
@patient
def review_aspects(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    language_model: dg.ResourceParam[LanguageModel],
) -> dg.MaterializeResult:
    catalog = context.partition_key
    domain = catalog_domain(warehouse, settings, catalog)
    model = None if language_model.is_extractive else language_model
    version = row_version(settings, "review_aspects")
    refreshed = refresh_aspects(warehouse, catalog, domain, version, settings, model, context.log.info)
    total, from_model, fallbacks, evidence, *filled = warehouse.rows(
        "SELECT count(*), count(*) FILTER (WHERE source = 'llm'), count(fallback_reason), "
        "count(*) FILTER (WHERE is_evidence), "
        f"{', '.join(f'count({name})' for name in SLOTS)} FROM review_aspects WHERE catalog = ?",
        [catalog],
    )[0]
    sample = warehouse.rows(
        f"SELECT {', '.join(SLOTS)}, source FROM review_aspects WHERE catalog = ? ORDER BY md5(review_id) LIMIT 8",
        [catalog],
    )
    slots = [name.split("_")[0] for name in SLOTS]
    return dg.MaterializeResult(
        metadata={
            "reviews": total,
            "read_now": refreshed.made,
            "removed": refreshed.removed,
            "from_model": from_model,
            "fallbacks": fallbacks,
            "fallback_reasons": _reasons(refreshed.fallbacks, "reviews"),
            "evidence": evidence,
            "filled_slots": dg.MetadataValue.md(bar_chart(slots, filled, "Filled slots", "reviews")),
            "preview": dg.MetadataValue.md(markdown_table([*SLOTS, "source"], sample, 60)),
            "dagster/partition_row_count": total,
            **_generation_metadata(language_model, "review_aspects"),
        },
        data_version=dg.DataVersion(
            warehouse.content_version("review_aspects", catalog, ignore=["made_from", "fallback_reason"])
        ),
    )


@dg.asset(
    pool=MODEL_POOL,
    partitions_def=CATALOGS,
    group_name="personas",
    kinds={"vllm", "duckdb"},
    deps=["items", "reviews", "splits"],
    description="Two or three neutral sentences on each item, from its metadata or, without metadata, from its train "
    "reviews; and a title for items whose source gives none.",
)
@patient
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
        asked = _summary_requests(items, domain, profile)
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
    pool=MODEL_POOL,
    partitions_def=CATALOGS,
    group_name="personas",
    kinds={"vllm", "duckdb"},
    deps=["review_aspects", "item_summaries", "reviews", "splits"],
    description="Two to seven kinds of people per item, and why they take to it or do not, each tied to the train "
    "reviews it rests on. What a model writes is checked against that evidence; what fails is replaced by rules.",
)
@patient
def personas(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    language_model: dg.ResourceParam[LanguageModel],
    text_encoder: dg.ResourceParam[TextEncoder],
) -> dg.MaterializeResult:
    catalog = context.partition_key
    domain = catalog_domain(warehouse, settings, catalog)
    model = None if language_model.is_extractive else language_model
    version = row_version(settings, "personas")
    refreshed = refresh_personas(warehouse, catalog, domain, version, settings, model, text_encoder, context.log.info)
    histogram = warehouse.rows(
        "SELECT size, count(*) FROM (SELECT count(*) AS size FROM personas WHERE catalog = ? GROUP BY item_id) "
        "GROUP BY size ORDER BY size",
        [catalog],
    )
    items = sum(count for _, count in histogram)
    total = sum(size * count for size, count in histogram)
    polarity = warehouse.rows(
        "SELECT polarity, count(*) AS personas FROM personas WHERE catalog = ? GROUP BY polarity ORDER BY personas DESC",
        [catalog],
    )
    from_model, fallbacks = warehouse.rows(
        "SELECT count(*) FILTER (WHERE source = 'llm'), count(fallback_reason) FROM personas WHERE catalog = ?",
        [catalog],
    )[0]
    sizes, counts = [size for size, _ in histogram], [count for _, count in histogram]
    return dg.MaterializeResult(
        metadata={
            "items": items,
            "items_made_now": refreshed.made,
            "personas": total,
            "personas_per_item": total / items if items else 0.0,
            "from_model": from_model,
            "fallbacks": fallbacks,
            "fallback_reasons": _reasons(refreshed.fallbacks, "personas"),
            "rejected": sum(refreshed.rejected.values()),
            "rejection_reasons": _reasons(refreshed.rejected, "personas"),
            "former_personas": refreshed.former,
            "former_personas_kept": refreshed.kept,
            "quality_report": dg.MetadataValue.path(settings.reports_path / "quality.html"),
            "polarity": dg.MetadataValue.md(markdown_table(["polarity", "personas"], polarity)),
            "personas_per_item_histogram": dg.MetadataValue.md(bar_chart(sizes, counts, "Personas per item", "items")),
            "sample": dg.MetadataValue.md(_sample(warehouse, catalog)),
            "dagster/partition_row_count": total,
            **_generation_metadata(language_model, "personas"),
        },
        data_version=dg.DataVersion(warehouse.content_version("personas", catalog, ignore=["fallback_reason"])),
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


def catalog_domains(warehouse: Database, settings: Settings) -> dict[str, Domain]:
    """`catalog_domain` of every catalogue that has items."""
    names = warehouse.rows("SELECT DISTINCT catalog FROM items ORDER BY 1")
    return {name: catalog_domain(warehouse, settings, name) for (name,) in names}


def summaries_to_ask_for(warehouse: Database, settings: Settings, catalog: str, model: LanguageModel) -> list[Request]:
    """What `item_summaries` of a catalogue would ask the model now, whether the ledger knows the answers or not."""
    domain = catalog_domain(warehouse, settings, catalog)
    asked = _summary_requests(_read_facts(warehouse, catalog, domain), domain, model.prompt_profile)
    return [request for request in asked if request is not None]


def _summary_requests(
    items: Sequence[ItemFacts], domain: Domain, profile: Literal["compact", "full"]
) -> list[Request | None]:
    """One per item, None for one of which too little is known."""
    template = PromptTemplate.load(PROMPTS, f"item_summaries.{profile}.jinja")
    return [summary_request(facts, domain, profile, template) for facts in items]


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
               WHERE catalog = $catalog AND splits.split = 'train' AND reviews.text <> ''
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


def row_version(settings: Settings, asset: str) -> str:
    """What a row remembers of how it was made. Unlike the code version with the number of retries, so that a higher one
    gives the failed ones another try in the next run, while the ledger keeps what succeeded from being paid again."""
    retries = "" if settings.generation.engine == "extractive" else settings.generation.max_retries
    return f"{code_versions(settings)[asset]} {retries}"


def _reasons(fallbacks: Counter[str], what: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(["reason, in this run", what], fallbacks.most_common(8)))


def _sample(warehouse: Database, catalog: str) -> str:
    """Three personas with their quotes, the same ones as long as the personas stay the same."""
    rows = warehouse.rows(
        """SELECT item_summaries.title, name, polarity, personas.source, description, preference_rationale, quotes
           FROM personas JOIN item_summaries USING (catalog, item_id)
           WHERE catalog = ? ORDER BY md5(item_id || persona_id) LIMIT 3""",
        [catalog],
    )
    parts = []
    for title, name, polarity, source, description, rationale, quotes in rows:
        said = "\n".join(f"> {markdown_text(quote, 220)}\n" for quote in quotes)
        parts.append(
            f"**{markdown_text(name)}** ({polarity}, {source}) of *{markdown_text(title)}*\n\n"
            f"{markdown_text(description, 600)}\n\n*{markdown_text(rationale, 320)}*\n\n{said}"
        )
    return "\n\n---\n\n".join(parts)


def _generation_metadata(language_model: LanguageModel, task: str) -> dict[str, Any]:
    """What the task has cost in this run, for the UI; nothing for the extractive engine."""
    if language_model.is_extractive:
        return {"engine": "extractive"}
    return {"engine": language_model.name, **language_model.costs_of(task)}
