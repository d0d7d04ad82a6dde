"""From an item's train reviews to its personas: grouped, worded, checked against their evidence.

Belongs here: the way of a batch of items through its steps, the rules that word a group, near-duplicates, ids, and the
persona for everybody. Does not belong here: how groups are found (`grouping.py`), the rules' wording (`wording.py`), what
a model is asked (`compact_profile.py`, `full_profile.py`) and the acceptance gate (`persona.py`).

A model's answer is never trusted because it parsed. What the gate rejects is replaced by the extractive persona of the
same evidence, and the reason is kept; an item never falls out of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from persona4rec_pipeline.generation import LanguageModel, PromptTemplate
from persona4rec_pipeline.generation.scrub import publishable
from persona4rec_pipeline.personas.background import Catalogue, ItemEvidence
from persona4rec_pipeline.personas.compact_profile import Decided, better_supported, decide_tastes
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.full_profile import write_personas
from persona4rec_pipeline.personas.grouping import Group, collect_evidence, group_evidence, largest
from persona4rec_pipeline.personas.persona import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_QUOTE_CHARACTERS,
    MAX_QUOTES,
    MAX_RATIONALE_CHARACTERS,
    MAX_SUPPORTING,
    Persona,
    Rejected,
    Span,
    persona_identifier,
    rejection,
    support_problem,
)
from persona4rec_pipeline.personas.tastes import Embed, Tastes
from persona4rec_pipeline.personas.text import tidy
from persona4rec_pipeline.personas.wording import (
    Wording,
    candidate_phrases,
    choose_phrases,
    summary_wording,
    write_persona,
)
from persona4rec_pipeline.settings import PersonaSettings

# The rules' own sentences are English.
EXTRACTIVE_LANGUAGE = "en"
# Groups beyond the most personas: what is refused or united with another must not cost one that is left its place.
SPARE_GROUPS = 3


@dataclass(frozen=True)
class Constructed:
    """The personas of a batch in the order of its items, what was rejected, and how many ids were carried over.

    former: personas that the items had before; kept: of these, those that are still there under their id.
    """

    personas: list[Persona]
    rejected: list[Rejected]
    former: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Templates:
    """The prompts of persona construction."""

    compact: PromptTemplate
    full: PromptTemplate


def construct_personas(
    items: Sequence[ItemEvidence],
    catalogue: Catalogue,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    positive_rating: float,
    model: LanguageModel | None = None,
    templates: Templates | None = None,
    former: Mapping[str, Sequence[Persona]] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Constructed:
    """The personas of a batch of items, one to `settings.max_personas` each, in the order of the items.

    embed: texts -> float32 (n, d), unit length. With `model` (and `templates`) the model decides on tastes (compact
    profile) or writes the personas (full profile); without, rules do both. Deterministic but for the model.
    former: the personas that the items have now; a new one with the same meaning takes over the id.
    """
    former = former or {}
    rejected: list[Rejected] = []
    groups = _group_items(items, catalogue.tastes, embed, settings, domain, positive_rating)
    is_compact = model is not None and templates is not None and model.prompt_profile == "compact"
    if is_compact and model is not None and templates is not None:
        decided = decide_tastes(items, groups, domain, model, templates.compact, on_progress)
        decided = better_supported(items, groups, decided, catalogue, embed)
    else:
        decided = [[Decided(group) for group in found] for found in groups]
    chosen = _word_groups(items, decided, catalogue, embed, settings, domain, rejected)
    if model is not None and templates is not None and not is_compact:
        chosen = write_personas(
            items, groups, chosen, catalogue, embed, settings, domain, model, templates.full, rejected, on_progress
        )
    # One call for the whole batch: the encoder is slow on handfuls.
    before = [list(former.get(item.item_id, ())) for item in items]
    vectors = embed([persona.claim for found in [*chosen, *before] for persona in found])
    of_former = sum(map(len, chosen))
    personas: list[Persona] = []
    start = kept = 0
    for item, found, earlier in zip(items, chosen, before, strict=True):
        rows = vectors[start : start + len(found)]
        start += len(found)
        finished, places = _united(found, rows, settings)
        polarities = [persona.polarity for persona in finished]
        # Where all are critical, one for everybody comes beside them.
        most = settings.max_personas - all(polarity == "critical" for polarity in polarities)
        order = largest(polarities, most)
        named = _keep_identifiers(
            [finished[place] for place in order],
            rows[[places[place] for place in order]],
            earlier,
            vectors[of_former : of_former + len(earlier)],
            settings.same_similarity,
        )
        of_former += len(earlier)
        named += _for_everybody(item, named, settings, domain)
        kept += len({persona.persona_id for persona in named} & {persona.persona_id for persona in earlier})
        personas += named
    return Constructed(personas, rejected, sum(map(len, before)), kept)


def _group_items(
    items: Sequence[ItemEvidence],
    tastes: Tastes,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    positive_rating: float,
) -> list[list[Group]]:
    most = settings.max_evidence_sentences
    evidence = [
        collect_evidence(item.reviews, domain, positive_rating, most, settings.encoder_languages) for item in items
    ]
    vectors = embed([sentence.text for found in evidence for sentence in found])
    groups: list[list[Group]] = []
    start = 0
    for found in evidence:
        rows = vectors[start : start + len(found)]
        groups.append(group_evidence(found, rows, tastes, settings.max_personas + SPARE_GROUPS, settings.near_tie))
        start += len(found)
    return groups


def _word_groups(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Decided]],
    catalogue: Catalogue,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    rejected: list[Rejected],
) -> list[list[Persona]]:
    """The persona of each group by rules, if its evidence supports it; what it does not goes to `rejected`."""
    candidates = [
        [candidate_phrases(decided.group, catalogue.statistics, item.title, domain) for decided in found]
        for item, found in zip(items, groups, strict=True)
    ]
    vocabulary = sorted({phrase for found in candidates for listed in found for phrase in listed})
    vectors = embed(vocabulary)
    row_of = {phrase: row for row, phrase in enumerate(vocabulary)}
    worded: list[list[Persona]] = []
    for item, found, listed in zip(items, groups, candidates, strict=True):
        taken: set[str] = set()
        personas: list[Persona] = []
        for decided, phrases_of_group in zip(found, listed, strict=True):
            rows = [row_of[phrase] for phrase in phrases_of_group]
            chosen = choose_phrases(phrases_of_group, vectors[rows], decided.group.centre)
            wording = write_persona(decided.group, chosen, item.title, domain, taken)
            taken.add(wording.name.lower())
            personas.append(_persona(item, wording, decided, [p.persona_id for p in personas]))
        worded.append(personas)
    kept: list[list[Persona]] = []
    said = [
        [sentence.text for sentence in decided.group.evidence[:MAX_SUPPORTING]] for found in groups for decided in found
    ]
    claims = embed([persona.claim for personas in worded for persona in personas])
    evidence = embed([text for texts in said for text in texts])
    number = start = 0
    for item, found, personas in zip(items, groups, worded, strict=True):
        passed = []
        for decided, persona in zip(found, personas, strict=True):
            own = evidence[start : start + len(said[number])]
            is_for = decided.group.polarity != "critical"
            support = catalogue.support(item.item_id, is_for, claims[number], own)
            start += len(said[number])
            number += 1
            problem = support_problem(support, settings)
            if problem is None:
                passed.append(replace(persona, support=support))
            else:
                rejected.append(rejection(replace(persona, support=support), 1, problem))
        kept.append(passed)
    return kept


def _united(
    personas: Sequence[Persona], vectors: np.ndarray, settings: PersonaSettings
) -> tuple[list[Persona], list[int]]:
    """The personas with near-duplicates united, and their places among those given.

    vectors: float32 (len(personas), d), unit length, of the claims.
    """
    kept: list[Persona] = []
    rows: list[int] = []
    for row, persona in enumerate(personas):
        twin = next(
            (
                place
                for place, other in enumerate(rows)
                if (kept[place].polarity == "critical") == (persona.polarity == "critical")
                and float(vectors[other] @ vectors[row]) >= settings.duplicate_similarity
            ),
            None,
        )
        if twin is None:
            kept.append(persona)
            rows.append(row)
        else:
            united = kept[twin]
            kept[twin] = replace(
                united,
                evidence_review_ids=tuple(dict.fromkeys(united.evidence_review_ids + persona.evidence_review_ids)),
                evidence_spans=tuple(dict.fromkeys(united.evidence_spans + persona.evidence_spans)),
                quotes=tuple(dict.fromkeys(united.quotes + persona.quotes))[:MAX_QUOTES],
            )
    return kept, rows


def _keep_identifiers(
    personas: Sequence[Persona],
    vectors: np.ndarray,
    former: Sequence[Persona],
    former_vectors: np.ndarray,
    same_similarity: float,
) -> list[Persona]:
    """The personas, each under the id of the former one that means the same, closest pairs first.

    The same: of one side (critical or not), and either by name or with claims as similar as `same_similarity`.
    """
    pairs = []
    for row, persona in enumerate(personas):
        for place, earlier in enumerate(former):
            if (persona.polarity == "critical") != (earlier.polarity == "critical"):
                continue
            similarity = float(vectors[row] @ former_vectors[place])
            if persona.name.lower() == earlier.name.lower():
                similarity = 2.0
            if similarity >= same_similarity:
                pairs.append((-similarity, earlier.persona_id, row))
    identifier: dict[int, str] = {}
    for _, persona_id, row in sorted(pairs):
        if row not in identifier and persona_id not in identifier.values():
            identifier[row] = persona_id
    named: list[Persona] = []
    # A new persona takes no id that means somebody else, be it one that is gone.
    taken = {persona.persona_id for persona in former} | set(identifier.values())
    for row, persona in enumerate(personas):
        persona_id = identifier.get(row) or persona_identifier(persona.name, taken)
        taken.add(persona_id)
        named.append(replace(persona, persona_id=persona_id))
    return named


def _for_everybody(
    item: ItemEvidence, personas: Sequence[Persona], settings: PersonaSettings, domain: Domain
) -> list[Persona]:
    """The persona from the summary, where nobody is known yet who takes to the item; else none."""
    if any(persona.polarity != "critical" for persona in personas):
        return []
    wording = summary_wording(item.title, item.summary, item.categories, domain)
    return [
        Persona(
            item.item_id,
            persona_identifier(wording.name, [p.persona_id for p in personas]),
            publishable(wording.name),
            publishable(tidy(wording.description, MAX_DESCRIPTION_CHARACTERS)),
            publishable(tidy(wording.preference_rationale, MAX_RATIONALE_CHARACTERS)),
            "mixed",
            (),
            (),
            (),
            None,
            settings.language,
            "summary",
        )
    ]


def _persona(item: ItemEvidence, wording: Wording, decided: Decided, taken: Iterable[str]) -> Persona:
    group = decided.group
    return Persona(
        item.item_id,
        persona_identifier(wording.name, taken),
        publishable(wording.name),
        publishable(tidy(wording.description, MAX_DESCRIPTION_CHARACTERS)),
        publishable(tidy(wording.preference_rationale, MAX_RATIONALE_CHARACTERS)),
        group.polarity,
        group.review_ids,
        tuple(Span(sentence.review_id, sentence.start, sentence.end) for sentence in group.evidence),
        tuple(publishable(tidy(sentence.text, MAX_QUOTE_CHARACTERS)) for sentence in group.evidence[:MAX_QUOTES]),
        None,
        EXTRACTIVE_LANGUAGE,
        decided.source,
        decided.fallback_reason,
    )
