"""What of a catalogue has changed, made again: the rows of `review_aspects` and `personas` that their sources outdate.

Belongs here: which reviews and items are new or changed, the batches in which they are worked on, and storing each
batch. Does not belong here: how a review is read (`aspects.py`) or an item's personas are made (`construct.py`).

Every row remembers a hash of what it was made from; a row whose hash is the same is neither read nor written. Batches
are committed as they are finished, no lock is held while a model runs, and so a killed refresh goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from typing import Any

import pandas as pd

from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate, Request
from persona4rec_pipeline.personas.aspects import (
    PROMPTS,
    SLOTS,
    Aspects,
    aspects_request,
    check_aspects,
    extract_aspects,
    ground_aspects,
)
from persona4rec_pipeline.personas.background import Catalogue, ItemEvidence, know_catalogue, sample_sentences
from persona4rec_pipeline.personas.construct import Constructed, Templates, construct_personas
from persona4rec_pipeline.personas.domains import Domain, domain_fingerprint
from persona4rec_pipeline.personas.grouping import TrainReview
from persona4rec_pipeline.personas.languages import language_of
from persona4rec_pipeline.personas.persona import Persona
from persona4rec_pipeline.personas.summaries import safe_categories
from persona4rec_pipeline.personas.wording import PhraseStatistics
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database, replace_changed_rows

# Items whose sentences are embedded and grouped together: bounds the memory, keeps the encoder's batches full.
ITEMS_PER_BATCH = 64
# Items that the recognisers of tastes adapt to.
SAMPLE_ITEMS = 150
# Reviews whose aspects are stored in one transaction.
REVIEWS_PER_BATCH = 2048

Tell = Callable[[str], None]

_ASPECT_COLUMNS = [
    "catalog", "review_id", "item_id", "user_id",
    *(column for name in SLOTS for column in (name, f"{name}_span")),
    "language", "is_evidence", "source", "fallback_reason", "made_from",
]  # fmt: skip
# Those that say something: a click is no review to be read, and no evidence of anything but itself. The title stands in the
# prompt, so a new title is a change of the review as well.
_TRAIN_REVIEWS = """
    SELECT reviews.review_id, reviews.item_id, reviews.user_id, coalesce(items.title, '') AS title, reviews.text,
           md5(concat_ws(chr(31), $version, coalesce(items.title, ''), reviews.text)) AS made_from
    FROM reviews JOIN splits USING (catalog, review_id)
    LEFT JOIN items ON items.catalog = reviews.catalog AND items.item_id = reviews.item_id
    WHERE reviews.catalog = $catalog AND splits.split = 'train' AND reviews.text <> ''
"""
_CHANGED_REVIEWS = f"""
    FROM ({_TRAIN_REVIEWS})
    ANTI JOIN (SELECT review_id, made_from FROM review_aspects WHERE catalog = $catalog) USING (review_id, made_from)
"""


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did. rows: reviews or items looked at; made: of these, those worked on; removed: rows whose source
    is gone; fallbacks: why the model's answers of this refresh were not used -> how often. rejected: why personas were
    not published -> how often; former, kept: personas of the items worked on, and how many of them keep their id."""

    rows: int
    made: int
    removed: int
    fallbacks: Counter[str]
    rejected: Counter[str] = field(default_factory=Counter)
    former: int = 0
    kept: int = 0


def refresh_aspects(
    warehouse: Database,
    catalog: str,
    domain: Domain,
    version: str,
    settings: Settings,
    model: LanguageModel | None,
    tell: Tell,
) -> Refreshed:
    """Make `review_aspects` of a catalogue agree with its train reviews; only new and changed reviews are read, and none
    of interactions without a text.

    version: of prompt, model, rules and settings; another one makes all rows again. With `model` None rules read.
    """
    parameters = {"catalog": catalog, "version": f"{version} {domain_fingerprint(domain.name)}"}
    with warehouse.write() as connection:
        removed = connection.execute(
            """DELETE FROM review_aspects WHERE catalog = $catalog AND review_id NOT IN
               (SELECT review_id FROM splits JOIN reviews USING (catalog, review_id)
                WHERE catalog = $catalog AND split = 'train' AND text <> '') RETURNING review_id""",
            {"catalog": catalog},
        ).fetchall()
    rows = warehouse.rows(f"SELECT count(*) FROM ({_TRAIN_REVIEWS})", parameters)[0][0]
    changed = warehouse.rows(f"SELECT count(*) {_CHANGED_REVIEWS}", parameters)[0][0]
    tell(f"{changed} of {rows} train reviews are new or changed")
    fallbacks: Counter[str] = Counter()
    found = _read_reviews(_pages(warehouse, parameters), changed, catalog, domain, model, tell)
    while batch := list(islice(found, REVIEWS_PER_BATCH)):
        stored = []
        for (review_id, item_id, user_id, _, text, made_from), aspects, reason in batch:
            spans = (part for slot in map(aspects.slots.get, SLOTS)
                     for part in ((slot.value, [slot.start, slot.end]) if slot else (None, None)))  # fmt: skip
            is_evidence = aspects.null_fraction <= settings.personas.max_null_fraction
            told = (language_of(text), is_evidence, aspects.source, reason, made_from)
            stored.append((catalog, review_id, item_id, user_id, *spans, *told))
            fallbacks.update([reason] if reason else [])
        frame = pd.DataFrame(stored, columns=_ASPECT_COLUMNS)
        warehouse.replace("review_aspects", frame, catalog, ("review_id", list(frame["review_id"])))
    return Refreshed(rows, changed, len(removed), fallbacks)


def refresh_personas(
    warehouse: Database,
    catalog: str,
    domain: Domain,
    version: str,
    settings: Settings,
    model: LanguageModel | None,
    text_encoder: TextEncoder,
    tell: Tell,
) -> Refreshed:
    """Make `personas` of a catalogue agree with the evidence of its items; only items whose evidence changed are made.

    What an item's personas are made from: its summary, its train reviews that are evidence, their aspects, and `version`
    (of prompt, model, rules and settings). How common a phrase is in the catalogue enters the wording too, as it was
    when the item was made: a few new reviews must not reword every persona.
    """
    version = f"{version} {domain_fingerprint(domain.name)}"
    with warehouse.write() as connection:
        removed = connection.execute(
            """DELETE FROM personas WHERE catalog = $catalog AND item_id NOT IN
               (SELECT item_id FROM item_summaries WHERE catalog = $catalog) RETURNING item_id""",
            {"catalog": catalog},
        ).fetchall()
        connection.execute(
            """DELETE FROM persona_evidence WHERE catalog = $catalog AND item_id NOT IN
               (SELECT item_id FROM item_summaries WHERE catalog = $catalog)""",
            {"catalog": catalog},
        )
        connection.execute(
            """DELETE FROM rejected_personas WHERE catalog = $catalog AND item_id NOT IN
               (SELECT item_id FROM item_summaries WHERE catalog = $catalog)""",
            {"catalog": catalog},
        )
    known = dict(warehouse.rows("SELECT item_id, made_from FROM persona_evidence WHERE catalog = ?", [catalog]))
    items = warehouse.rows("SELECT count(*) FROM item_summaries WHERE catalog = ?", [catalog])[0][0]
    changed = (found for found in _items(warehouse, catalog, version) if known.get(found[0].item_id) != found[1])
    catalogue: Catalogue | None = None
    templates = Templates(
        PromptTemplate.load(PROMPTS, "personas.compact.jinja"), PromptTemplate.load(PROMPTS, "personas.full.jinja")
    )
    fallbacks: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    made = personas = former = kept = 0
    while batch := list(islice(changed, ITEMS_PER_BATCH)):
        if catalogue is None:  # costs a pass over the catalogue; an unchanged one does not need it
            catalogue = _know_catalogue(warehouse, catalog, version, domain, settings, text_encoder, tell)
        found = construct_personas(
            [item for item, _ in batch],
            catalogue,
            text_encoder.encode,
            settings.personas,
            domain,
            settings.reviews.positive_rating,
            model,
            templates,
            _former_personas(warehouse, catalog, [item.item_id for item, _ in batch]),
            on_progress=tell,
        )
        _store_personas(warehouse, catalog, batch, found)
        fallbacks.update(persona.fallback_reason for persona in found.personas if persona.fallback_reason)
        # Without the figures in brackets, or every rejection would be a reason of its own.
        rejected.update(entry.reason.split(" (")[0] for entry in found.rejected)
        made += len(batch)
        personas += len(found.personas)
        former += found.former
        kept += found.kept
        tell(f"{made} items with new or changed evidence, {personas} personas")
    return Refreshed(items, made, len(removed), fallbacks, rejected, former, kept)


def extractive_personas(
    warehouse: Database,
    catalog: str,
    domain: Domain,
    items: Sequence[str],
    settings: Settings,
    text_encoder: TextEncoder,
    tell: Tell,
) -> list[Persona]:
    """What the rules would write of these items of a catalogue, in order of their ids; nothing is stored."""
    catalogue = _know_catalogue(warehouse, catalog, "", domain, settings, text_encoder, tell)
    wanted = set(items)
    found = (item for item, _ in _items(warehouse, catalog, "") if item.item_id in wanted)
    personas: list[Persona] = []
    while batch := list(islice(found, ITEMS_PER_BATCH)):
        personas += construct_personas(
            batch, catalogue, text_encoder.encode, settings.personas, domain, settings.reviews.positive_rating
        ).personas
        tell(f"extractive personas of {catalog}: {len(personas)}")
    return personas


def changed_evidence(
    warehouse: Database, catalog: str, domain: Domain, aspects_version: str, personas_version: str
) -> tuple[int, int]:
    """(reviews, items) that `refresh_aspects` and `refresh_personas` would work on now.

    Items of changed reviews are counted as changed: whether a review turns out to be evidence is known once it was read.
    """
    parameters = {"catalog": catalog, "version": f"{aspects_version} {domain_fingerprint(domain.name)}"}
    changed = warehouse.rows(f"SELECT review_id, item_id {_CHANGED_REVIEWS}", parameters)
    known = dict(warehouse.rows("SELECT item_id, made_from FROM persona_evidence WHERE catalog = ?", [catalog]))
    version = f"{personas_version} {domain_fingerprint(domain.name)}"
    items = {
        item.item_id for item, made_from in _items(warehouse, catalog, version) if known.get(item.item_id) != made_from
    }
    return len(changed), len(items | {item_id for _, item_id in changed})


def _read_reviews(
    reviews: Iterator[tuple], total: int, catalog: str, domain: Domain, model: LanguageModel | None, tell: Tell
) -> Iterator[tuple[tuple, Aspects, str | None]]:
    """Each review with its aspects, in order, and why the model's answer was not used."""
    if model is None:
        for review in reviews:
            yield review, extract_aspects(review[4], domain), None
        return
    template = PromptTemplate.load(PROMPTS, f"review_aspects.{model.prompt_profile}.jinja")
    # Reviews whose answers are awaited, never more than a chunk of the ledger; None where nothing is asked.
    waiting: deque[tuple[tuple, Request | None]] = deque()

    def requests() -> Iterator[Request]:
        for review in reviews:
            subject = f"{catalog}/review/{review[0]}"
            request = aspects_request(subject, review[3], review[4], domain, model.prompt_profile, template)
            waiting.append((review, request))
            if request is not None:
                yield request

    def unasked() -> Iterator[tuple[tuple, Aspects, str | None]]:
        while waiting and waiting[0][1] is None:
            yield waiting.popleft()[0], Aspects(dict.fromkeys(SLOTS), "extractive"), None

    for answer in model.generate(_Counted(requests(), total), check=check_aspects, on_progress=tell):
        yield from unasked()
        review, _ = waiting.popleft()
        aspects = ground_aspects(answer.value if answer.ok else {}, review[4], domain)
        refused = aspects.source == "extractive"
        reason = (answer.reason or "nothing in the answer stands in the review") if refused else None
        yield review, aspects, reason
    yield from unasked()


class _Counted:
    """Requests that are made as they are read, of which the number is known: a progress bar wants to tell what is left."""

    def __init__(self, requests: Iterator[Request], total: int):
        self._requests, self._total = requests, total

    def __iter__(self) -> Iterator[Request]:
        return self._requests

    def __len__(self) -> int:
        return self._total


def _pages(warehouse: Database, parameters: dict[str, str]) -> Iterator[tuple]:
    """The changed train reviews by item and id, read a page at a time while earlier ones are stored."""
    last = ("", "")
    while True:
        page = warehouse.rows(
            f"SELECT * {_CHANGED_REVIEWS} WHERE (item_id, review_id) > ($item, $review) "
            f"ORDER BY item_id, review_id LIMIT {REVIEWS_PER_BATCH}",
            {**parameters, "item": last[0], "review": last[1]},
        )
        yield from page
        if len(page) < REVIEWS_PER_BATCH:
            return
        last = (page[-1][1], page[-1][0])


def _items(warehouse: Database, catalog: str, version: str, where: str = "TRUE") -> Iterator[tuple[ItemEvidence, str]]:
    """Every item (of those that the SQL condition `where` picks) with its evidence and the hash of both and `version`, read
    a batch at a time."""
    last = ""
    while True:
        with warehouse.read() as connection:
            items = connection.execute(
                f"""SELECT item_summaries.item_id, item_summaries.title, item_summaries.summary, items.categories
                   FROM item_summaries JOIN items USING (catalog, item_id)
                   WHERE catalog = ? AND item_id > ? AND {where} ORDER BY item_id LIMIT ?""",
                [catalog, last, ITEMS_PER_BATCH],
            ).fetchall()
            if not items:
                return
            reviews = connection.execute(
                f"""SELECT reviews.item_id, review_id, reviews.text, reviews.is_positive, reviews.rating, reviews.title,
                           review_aspects.language,
                           {", ".join(f"review_aspects.{name}" for name in SLOTS)}
                    FROM reviews JOIN review_aspects USING (catalog, review_id) JOIN splits USING (catalog, review_id)
                    WHERE catalog = ? AND review_aspects.is_evidence AND splits.split = 'train'
                      AND reviews.item_id BETWEEN ? AND ? ORDER BY reviews.item_id, review_id""",
                [catalog, items[0][0], items[-1][0]],
            ).fetchall()
        reviews_of: dict[str, list[TrainReview]] = defaultdict(list)
        tuples_of: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for item_id, review_id, text, is_positive, rating, title, language, *values in reviews:
            reviews_of[item_id].append(TrainReview(review_id, text, is_positive, rating, title, language))
            said = "; ".join(f"{name.replace('_', ' ')}: {v}" for name, v in zip(SLOTS, values, strict=True) if v)
            verdict = "liked" if is_positive else "not liked"
            tuples_of[item_id].append((review_id, f"({verdict}) {said}"))
        for item_id, title, summary, categories in items:
            item = ItemEvidence(
                catalog,
                item_id,
                title,
                summary,
                safe_categories(categories or ()),
                tuple(reviews_of[item_id]),
                tuple(tuples_of[item_id]),
            )
            yield item, hashlib.sha256(json.dumps([version, astuple(item)]).encode()).hexdigest()[:24]
        last = items[-1][0]


def _train_texts(warehouse: Database, catalog: str) -> Iterator[str]:
    rows = warehouse.rows(
        """SELECT reviews.text FROM reviews JOIN splits USING (catalog, review_id)
           WHERE reviews.catalog = ? AND splits.split = 'train' AND reviews.text <> '' ORDER BY review_id""",
        [catalog],
    )
    return (text for (text,) in rows)


def _know_catalogue(
    warehouse: Database,
    catalog: str,
    version: str,
    domain: Domain,
    settings: Settings,
    text_encoder: TextEncoder,
    tell: Tell,
) -> Catalogue:
    """The recognisers, adapted to a sample of the catalogue's items: those with the smallest hashes of their ids, so that
    it stays the same as the catalogue grows, but for a few."""
    chosen = f"""item_summaries.item_id IN (
        SELECT item_id FROM review_aspects WHERE review_aspects.catalog = item_summaries.catalog AND is_evidence
        GROUP BY item_id ORDER BY md5(item_id) LIMIT {SAMPLE_ITEMS})"""
    items = [item for item, _ in _items(warehouse, catalog, version, chosen)]
    sampled = sample_sentences(items, text_encoder.encode, settings.personas, domain, settings.reviews.positive_rating)
    statistics = PhraseStatistics.of(_train_texts(warehouse, catalog), domain)
    catalogue = know_catalogue(sampled, statistics, domain, text_encoder.encode)
    tell(f"tastes learnt from {sum(len(found) for _, found, _ in sampled)} sentences on {len(items)} items")
    return catalogue


def _former_personas(warehouse: Database, catalog: str, items: Sequence[str]) -> dict[str, list[Persona]]:
    """The personas that the items have now, those from a summary apart: they mean nobody in particular."""
    rows = warehouse.rows(
        """SELECT item_id, persona_id, name, description, preference_rationale, polarity, source FROM personas
           WHERE catalog = ? AND source <> 'summary' AND item_id IN (SELECT unnest(?)) ORDER BY item_id, persona_id""",
        [catalog, list(items)],
    )
    former: dict[str, list[Persona]] = defaultdict(list)
    for item_id, persona_id, name, description, rationale, polarity, source in rows:
        former[item_id].append(
            Persona(item_id, persona_id, name, description, rationale, polarity, (), (), (), None, "", source)
        )
    return former


_PERSONA_COLUMNS = [
    "catalog", "item_id", "persona_id", "name", "description", "preference_rationale", "polarity",
    "evidence_review_ids", "evidence_spans", "quotes", "support", "language", "source", "fallback_reason",
]  # fmt: skip
_REJECTED_COLUMNS = [
    "catalog", "item_id", "name", "description", "polarity", "support", "source", "attempt", "reason",
]  # fmt: skip


def _store_personas(
    warehouse: Database, catalog: str, batch: Sequence[tuple[ItemEvidence, str]], made: Constructed
) -> None:
    """The personas of a batch of items, what was rejected, and what they were made from, in one transaction."""
    personas = _frame(catalog, made.personas, _PERSONA_COLUMNS)
    rejected = _frame(catalog, made.rejected, _REJECTED_COLUMNS)
    evidence = pd.DataFrame(
        [(catalog, item.item_id, made_from) for item, made_from in batch], columns=["catalog", "item_id", "made_from"]
    )
    scope = "catalog = $catalog AND item_id IN (SELECT unnest($items))"
    parameters = {"catalog": catalog, "items": [item.item_id for item, _ in batch]}
    with warehouse.write() as connection:
        for table, frame in (("personas", personas), ("persona_evidence", evidence)):
            connection.register("made", frame)
            replace_changed_rows(connection, table, "FROM made", scope, parameters)
        connection.register("refused", rejected)
        connection.execute(f"DELETE FROM rejected_personas WHERE {scope}", parameters)
        connection.execute("INSERT INTO rejected_personas BY NAME FROM refused")


def _frame(catalog: str, records: Sequence[Any], columns: list[str]) -> pd.DataFrame:
    rows = [{"catalog": catalog, **asdict(record)} for record in records]
    frame = pd.DataFrame(rows, columns=columns)
    for name in ("evidence_review_ids", "evidence_spans", "quotes"):
        if name in frame:
            frame[name] = frame[name].map(list)
    return frame
