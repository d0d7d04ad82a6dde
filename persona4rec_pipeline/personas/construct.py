"""From an item's train reviews to its personas: grouped, worded, checked against their evidence.

Belongs here: what a persona is, the acceptance gate, and the three ways to one: by rules (extractive), by a small model
that tells what a group is about (compact profile), by a large model that reads everything (full profile). Does not belong here: how
groups are found (`grouping.py`) and the rules' wording (`wording.py`).

A model's answer is never trusted because it parsed. What the gate rejects is replaced by the extractive persona of the
same evidence, and the reason is kept; an item never falls out of the index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request, delimit
from persona4rec_pipeline.generation.scrub import publishable
from persona4rec_pipeline.personas.background import Catalogue, ItemEvidence
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.grouping import (
    Group,
    Polarity,
    collect_evidence,
    group_evidence,
)
from persona4rec_pipeline.personas.polarity import stated_polarity
from persona4rec_pipeline.personas.publishing import refusal
from persona4rec_pipeline.personas.tastes import Embed, Tastes, Topic
from persona4rec_pipeline.personas.text import is_usable, repeats_itself, sentences, tidy, words
from persona4rec_pipeline.personas.wording import (
    Wording,
    candidate_phrases,
    choose_phrases,
    claim,
    summary_wording,
    write_persona,
)
from persona4rec_pipeline.settings import PersonaSettings

MAX_QUOTES = 3
MAX_QUOTE_CHARACTERS = 220
MAX_DESCRIPTION_CHARACTERS = 600
MAX_RATIONALE_CHARACTERS = 320
# Aspect tuples that the full prompt shows, and sentences per group in the compact prompt.
MAX_PROMPT_TUPLES = 40
MAX_PROMPT_SENTENCES = 4
# Tastes among which a small model chooses.
MAX_TASTES = 4
# The rules' own sentences are English.
EXTRACTIVE_LANGUAGE = "en"
# Sentences of a persona whose fit with it is measured.
MAX_SUPPORTING = 8
_MARKUP = re.compile(r"[<>{}\[\]|`]|https?:|www\.|\S+@\S+")


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of the text of a review."""

    review_id: str
    start: int
    end: int


@dataclass(frozen=True)
class Persona:
    """One persona of one item; see the table `personas` in warehouse/schema.sql."""

    item_id: str
    persona_id: str
    name: str
    description: str
    preference_rationale: str
    polarity: Polarity
    evidence_review_ids: tuple[str, ...]
    evidence_spans: tuple[Span, ...]
    quotes: tuple[str, ...]
    support: float | None
    language: str
    source: Literal["llm", "extractive", "summary"]
    fallback_reason: str | None = None

    @property
    def claim(self) -> str:
        """What it says of people, without the quotes that back it."""
        return claim(self.name, self.description)


@dataclass(frozen=True)
class Rejected:
    """A persona that was not published; see the table `rejected_personas`. attempt: 1, or 2 after it was told why."""

    item_id: str
    name: str
    description: str
    polarity: str
    support: float | None
    source: Literal["llm", "extractive"]
    attempt: int
    reason: str


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
        decided = _decide_tastes(items, groups, domain, model, templates.compact, on_progress)
        decided = _better_supported(items, groups, decided, catalogue, embed)
    else:
        decided = [[_Decided(group) for group in found] for found in groups]
    chosen = _word_groups(items, decided, catalogue, embed, settings, domain, rejected)
    if model is not None and templates is not None and not is_compact:
        chosen = _written_by_model(
            items, groups, chosen, catalogue, embed, settings, domain, model, templates, rejected, on_progress
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
        if all(persona.polarity == "critical" for persona in finished):  # one for everybody comes beside them
            finished, places = finished[: settings.max_personas - 1], places[: settings.max_personas - 1]
        named = _keep_identifiers(
            finished, rows[places], earlier, vectors[of_former : of_former + len(earlier)], settings.same_similarity
        )
        of_former += len(earlier)
        named += _for_everybody(item, named, settings, domain)
        kept += len({persona.persona_id for persona in named} & {persona.persona_id for persona in earlier})
        personas += named
    return Constructed(personas, rejected, sum(map(len, before)), kept)


def acceptance_problem(
    name: str, description: str, title: str, support: float | None, settings: PersonaSettings, domain: Domain
) -> str | None:
    """Why a generated persona is not accepted, or None when it is.

    support: as `Catalogue.support` gives it, None where it could not be measured.
    """
    name_words = words(name)
    if not 2 <= len(name_words) <= 6 or len(name) > 60:
        return "the name is not two to six words"
    if len(set(name_words)) < len(name_words):
        return "the name repeats a word"
    title_words = set(words(title)) - {"the", "a", "an", "of", "and", "in", "to"}
    if title_words and title_words & set(name_words) - domain.generic_words:
        return "the name is made of the title"
    if name_words[0] in {"the", "this", "a", "an"} and len(name_words) < 3:
        return "the name names a thing, not a kind of person"
    if len(words(description)) < 6:
        return "the description says too little"
    if settings.language == "en":
        if not re.search(rf"\b(?:{domain.person}s?|they|people|someone|those|who)\b", description, re.IGNORECASE):
            return "the description is not about a kind of person"
        if re.search(r"\b(?:I|my|me)\b", description):
            return "the description is in the first person"
    if repeats_itself(description):
        return "the description repeats itself"
    if _MARKUP.search(name + description) or not is_usable(description, domain):
        return "the text carries markup, a link or an instruction"
    return _support_problem(support, settings)


def persona_identifier(name: str, taken: Iterable[str]) -> str:
    """A readable id, unique in its item: the name in lower case with hyphens, so that the same name keeps its id."""
    base = "-".join(words(name))[:60].strip("-") or "persona"
    taken = set(taken)
    if base not in taken:
        return base
    return next(f"{base}-{number}" for number in range(2, 1000) if f"{base}-{number}" not in taken)


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
        groups.append(group_evidence(found, rows, tastes, settings.max_personas, settings.near_tie))
        start += len(found)
    return groups


@dataclass(frozen=True)
class _Decided:
    """A group with its final taste, who decided on it, and why the model's decision was not taken."""

    group: Group
    source: Literal["llm", "extractive"] = "extractive"
    fallback_reason: str | None = None


def _word_groups(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[_Decided]],
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
            problem = _support_problem(support, settings)
            if problem is None:
                passed.append(replace(persona, support=support))
            else:
                rejected.append(_rejection(replace(persona, support=support), 1, problem))
        kept.append(passed)
    return kept


def _support_problem(support: float | None, settings: PersonaSettings) -> str | None:
    if support is not None and support < settings.min_support:
        return f"its evidence does not support it ({support:.2f} < {settings.min_support:.2f})"
    return None


def _rejection(persona: Persona, attempt: int, reason: str) -> Rejected:
    source: Literal["llm", "extractive"] = "llm" if persona.source == "llm" else "extractive"
    return Rejected(
        persona.item_id,
        persona.name,
        persona.description,
        persona.polarity,
        persona.support,
        source,
        attempt,
        reason,
    )


def _decide_tastes(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    domain: Domain,
    model: LanguageModel,
    template: PromptTemplate,
    on_progress: Callable[[str], None] | None,
) -> list[list[_Decided]]:
    """The compact profile: rules find the groups, the model says which of the closest tastes each is about.

    Each is asked about twice, the tastes in turned order the second time: a choice that turns with the order is none.
    Groups with fewer than two tastes to choose from are not asked about, and stay extractive without a reason: nothing
    was rejected.
    """
    options = [[_tastes_of(group, found) for group in found] for found in groups]
    requests = [
        _compact_request(item, group, shown, domain, template)
        for item, found, listed in zip(items, groups, options, strict=True)
        for group, near in zip(found, listed, strict=True)
        if len(near) > 1
        # In alphabetical order, so that the first is not always the one that similarity favours.
        for shown in (sorted(taste.name for taste in near), sorted((taste.name for taste in near), reverse=True))
    ]
    answers = model.generate(requests, on_progress=on_progress)
    decided: list[list[_Decided]] = []
    for found, listed in zip(groups, options, strict=True):
        taken: set[str] = set()
        of_item: list[_Decided] = []
        for group, near in zip(found, listed, strict=True):
            outcome = _Decided(group)
            if len(near) > 1:
                first, second = next(answers), next(answers)
                if not (first.ok and second.ok):
                    outcome = _Decided(group, fallback_reason=first.reason or second.reason)
                elif first.value != second.value:
                    outcome = _Decided(group, fallback_reason="the model's choice turned with the order of the tastes")
                elif first.value in taken:
                    reason = "another persona of the item is about the taste that the model chose"
                    outcome = _Decided(group, fallback_reason=reason)
                else:
                    picked = next(taste for taste in near if taste.name == first.value)
                    outcome = _Decided(replace(group, taste=picked), source="llm")
            if outcome.group.taste is not None:
                taken.add(outcome.group.taste.name)
            of_item.append(outcome)
        decided.append(of_item)
    return decided


def _better_supported(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    decided: Sequence[Sequence[_Decided]],
    catalogue: Catalogue,
    embed: Embed,
) -> list[list[_Decided]]:
    """The model's tastes, but where the evidence supports the one better that rules found."""
    kept = [list(found) for found in decided]
    for row, (item, found) in enumerate(zip(items, groups, strict=True)):
        for place, group in enumerate(found):
            picked = decided[row][place]
            if picked.source != "llm" or picked.group.taste is None or group.taste in (None, picked.group.taste):
                continue
            topics = [topic for topic in (picked.group.taste, group.taste) if topic is not None]
            said = [sentence.text for sentence in group.evidence[:MAX_SUPPORTING]]
            vectors = embed([*(f"{topic.who}. {topic.meaning}" for topic in topics), *said])
            is_for = group.polarity != "critical"
            by_model, by_rules = (catalogue.support(item.item_id, is_for, claim, vectors[2:]) for claim in vectors[:2])
            if (by_model or 0.0) < (by_rules or 0.0):
                reason = f"its evidence supports {topics[1].name!r} better than {topics[0].name!r}"
                kept[row][place] = _Decided(group, fallback_reason=reason)
    return kept


def _tastes_of(group: Group, siblings: Sequence[Group]) -> list[Topic]:
    """What the model may choose from: the group's taste and its near ties, without the tastes of the item's other groups."""
    others = {other.taste.name for other in siblings if other is not group and other.taste is not None}
    near = [topic for topic in group.near if topic.name not in others][:MAX_TASTES]
    if group.taste is not None and group.taste not in near:
        near.append(group.taste)
    return near


def _written_by_model(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    extractive: Sequence[Sequence[Persona]],
    catalogue: Catalogue,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    model: LanguageModel,
    templates: Templates,
    rejected: list[Rejected],
    on_progress: Callable[[str], None] | None,
) -> list[list[Persona]]:
    """The full profile: the model reads the summary and the tuples by clusters, and writes all personas of an item at once.

    An item of which too few personas are accepted is asked for once more, with what was wrong; then rules fill up.
    """
    context = model.settings.generation.context_length
    shown = [_shown_tuples(item, found, settings, context) for item, found in zip(items, groups, strict=True)]
    accepted: list[list[Persona]] = [[] for _ in items]
    reasons: list[list[str]] = [[] for _ in items]
    wanted = [min(2, len(item.reviews)) for item in items]
    for attempt in (1, 2):
        asked = [
            row for row, clusters in enumerate(shown)
            if clusters and len(accepted[row]) < wanted[row] and (attempt == 1 or reasons[row])
        ]  # fmt: skip
        requests = [
            _full_request(
                items[row],
                shown[row],
                _most_personas(settings, context),
                settings,
                domain,
                templates.full,
                reasons[row],
            )
            for row in asked
        ]
        results = model.generate(requests, check=_check_personas, on_progress=on_progress)
        for row, result in zip(asked, results, strict=True):
            if result.status == "failed":
                reasons[row] = [result.reason or "no answer"]
                continue
            written, refused = _accept(items[row], shown[row], result.value, catalogue, embed, settings, domain)
            rejected += [replace(entry, attempt=attempt) for entry in refused]
            reasons[row] = list(dict.fromkeys(entry.reason for entry in refused))
            if len(written) > len(accepted[row]):
                accepted[row] = written
    chosen: list[list[Persona]] = []
    for row, fallback in enumerate(extractive):
        found = accepted[row]
        for persona in fallback:
            if len(found) >= max(wanted[row], 1):
                break
            identifier = persona_identifier(persona.name, [p.persona_id for p in found])
            reason = reasons[row][0] if reasons[row] else "the model wrote too few personas" if shown[row] else None
            found = [*found, replace(persona, persona_id=identifier, fallback_reason=reason)]
        chosen.append(found)
    return chosen


@dataclass(frozen=True)
class _Cluster:
    """Like-minded reviewers as the full prompt shows them: (review_id, tuple) of some, and how many there are."""

    tuples: tuple[tuple[str, str], ...]
    size: int
    is_for: bool


def _shown_tuples(
    item: ItemEvidence, groups: Sequence[Group], settings: PersonaSettings, context_length: int
) -> list[_Cluster]:
    """The item's tuples by clusters, as many as fit the context; every cluster keeps a place, larger ones get more."""
    said = dict(item.tuples)
    is_positive = {review.review_id: review.is_positive for review in item.reviews}
    members: list[tuple[list[str], bool]] = []
    taken: set[str] = set()
    for group in groups:
        own = [review_id for review_id in group.review_ids if review_id in said and review_id not in taken]
        taken.update(own)
        if own:
            members.append((own, group.polarity != "critical"))
    for is_for in (True, False):
        rest = [review_id for review_id in said if review_id not in taken and is_positive[review_id] == is_for]
        if rest:
            members.append((rest, is_for))
    room = _prompt_tuples(settings, context_length)
    shares = [1] * len(members)
    # One more for whom it brings most, by the rule of Sainte-Lague on the square roots of the sizes.
    while sum(shares) < min(room, len(said)):
        open_ = [row for row, (own, _) in enumerate(members) if shares[row] < len(own)]
        if not open_:
            break
        row = max(open_, key=lambda row: (len(members[row][0]) ** 0.5 / (2 * shares[row] + 1), -row))
        shares[row] += 1
    return [
        _Cluster(tuple((review_id, said[review_id]) for review_id in own[:share]), len(own), is_for)
        for (own, is_for), share in zip(members, shares, strict=True)
    ]


# Tokens of a persona in an answer, of a tuple in the prompt, and of the rest of the prompt: what fits a context.
_PERSONA_TOKENS, _TUPLE_TOKENS, _PROMPT_TOKENS = 190, 80, 650


def _prompt_tuples(settings: PersonaSettings, context_length: int) -> int:
    room = context_length - _PROMPT_TOKENS - _most_personas(settings, context_length) * _PERSONA_TOKENS
    return max(4, min(MAX_PROMPT_TUPLES, room // _TUPLE_TOKENS))


def _most_personas(settings: PersonaSettings, context_length: int) -> int:
    """A small context leaves no room for many personas."""
    return min(settings.max_personas, max(2, context_length // 500))


def _accept(
    item: ItemEvidence,
    shown: Sequence[_Cluster],
    answer: Sequence[dict[str, Any]],
    catalogue: Catalogue,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
) -> tuple[list[Persona], list[Rejected]]:
    """The personas of one answer that pass the gate, and those that do not."""
    texts_of = {review.review_id: review.text for review in item.reviews}
    tuples = [entry for cluster in shown for entry in cluster.tuples]
    accepted: list[Persona] = []
    refused: list[Rejected] = []
    for entry in answer:
        ids = list(dict.fromkeys(tuples[n - 1][0] for n in entry["evidence"] if 1 <= n <= len(tuples)))
        said = [
            (Span(review_id, piece.start, piece.end), piece.text)
            for review_id in ids
            for piece in sentences(texts_of[review_id])
            if is_usable(piece.text, domain)
        ]
        name, description, rationale = entry["name"], entry["description"], entry["preference_rationale"]
        vectors = embed([claim(name, description), *(text for _, text in said)])
        closeness = vectors[1:] @ vectors[0]
        # The best half of its sentences: a review says more than what this persona rests on.
        best = np.argsort(-closeness, kind="stable")[: max(1, (len(said) + 1) // 2)]
        polarity: Polarity = entry["polarity"]
        read_as = stated_polarity(name, description, rationale)
        if polarity == "appreciative" and read_as == "mixed":
            polarity = "mixed"
        support = catalogue.support(
            item.item_id, polarity != "critical", vectors[0], vectors[1:][best[:MAX_SUPPORTING]]
        )
        persona = Persona(
            item.item_id,
            persona_identifier(name, [p.persona_id for p in accepted]),
            name,
            description,
            rationale,
            polarity,
            tuple(ids),
            tuple(said[row][0] for row in best),
            tuple(publishable(tidy(said[row][1], MAX_QUOTE_CHARACTERS)) for row in best[:MAX_QUOTES]),
            support,
            settings.language,
            "llm",
        )
        material = " ".join([item.title, item.summary, *(texts_of[review_id] for review_id in ids)])
        problem = None if ids else "it names no review as evidence"
        problem = problem or acceptance_problem(name, description, item.title, support, settings, domain)
        problem = problem or refusal((name, description, rationale), material, catalogue.vocabulary)
        if problem is None and polarity != "critical" and read_as == "critical":
            problem = f"it claims to be {polarity} and reads as critical"
        if problem is None and name.lower() in {other.name.lower() for other in accepted}:
            problem = "the name is already taken by another persona of the item"
        if problem is None:
            accepted.append(persona)
        else:
            refused.append(_rejection(persona, 1, problem))
    return accepted[: settings.max_personas], refused


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


def _persona(item: ItemEvidence, wording: Wording, decided: _Decided, taken: Iterable[str]) -> Persona:
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


def _compact_request(
    item: ItemEvidence, group: Group, tastes: Sequence[str], domain: Domain, template: PromptTemplate
) -> Request:
    said = " | ".join(delimit(sentence.text, 200) for sentence in group.evidence[:MAX_PROMPT_SENTENCES])
    choices = tuple(tastes)
    return Request(
        task="personas",
        subject=f"{item.catalog}/item/{item.item_id}",
        messages=template.render(domain=domain, evidence=said, tastes=choices),
        template=template.fingerprint,
        choices=choices,
        max_tokens=16,
    )


def _full_request(
    item: ItemEvidence,
    shown: Sequence[_Cluster],
    most_personas: int,
    settings: PersonaSettings,
    domain: Domain,
    template: PromptTemplate,
    problems: Sequence[str],
) -> Request:
    """problems: why personas of the first answer were not accepted; empty when the item is asked for the first time."""
    count = sum(len(cluster.tuples) for cluster in shown)
    most = 1 if len(item.reviews) == 1 else max(2, min(most_personas, count, len(shown) + 2))
    persona = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 5, "maxLength": 60},
            "description": {"type": "string", "minLength": 30, "maxLength": MAX_DESCRIPTION_CHARACTERS},
            "preference_rationale": {"type": "string", "minLength": 20, "maxLength": MAX_RATIONALE_CHARACTERS},
            "polarity": {"enum": ["appreciative", "critical", "mixed"]},
            "evidence": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": count},
                "minItems": 1,
                "maxItems": min(8, count),
            },
        },
        "required": ["name", "description", "preference_rationale", "polarity", "evidence"],
        "additionalProperties": False,
    }
    number = 0
    clusters = []
    for cluster in shown:
        lines = []
        for _, said in cluster.tuples:
            number += 1
            lines.append((number, delimit(said, 260)))
        clusters.append({"size": cluster.size, "is_for": cluster.is_for, "lines": lines})
    return Request(
        task="personas",
        subject=f"{item.catalog}/item/{item.item_id}",
        messages=template.render(
            domain=domain,
            title=delimit(item.title, 160),
            summary=delimit(item.summary, 500),
            clusters=clusters,
            fewest=min(2, most),
            most=most,
            language=settings.language,
            problems=[delimit(problem, 160) for problem in problems[:4]],
        ),
        template=template.fingerprint,
        schema={"type": "array", "items": persona, "minItems": min(2, most), "maxItems": most},
        max_tokens=_PERSONA_TOKENS * most,
    )


def _check_wording(_: Request, answer: Any) -> dict[str, str]:
    if not isinstance(answer, dict) or not all(isinstance(answer.get(key), str) for key in ("name", "description")):
        raise InvalidAnswer("the answer holds no name and description")
    description = " ".join(answer["description"].split())
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", description)]
    # A description cut by its length limit keeps its whole sentences.
    if ends:
        description = description[: ends[-1]]
    elif not description.endswith("."):
        description = f"{tidy(description, 200).rstrip('…,;: ')}."
    name = " ".join(answer["name"].split()).strip(" .,:;\"'")
    return {"name": name[:1].upper() + name[1:], "description": description}


def _check_personas(_: Request, answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, list) or not answer:
        raise InvalidAnswer("the answer holds no personas")
    checked = []
    for entry in answer:
        if not isinstance(entry, dict) or not isinstance(entry.get("evidence"), list):
            raise InvalidAnswer("a persona has no evidence list")
        wording = _check_wording(_, entry)
        rationale = tidy(str(entry.get("preference_rationale", "")), MAX_RATIONALE_CHARACTERS)
        if len(words(rationale)) < 4:
            raise InvalidAnswer("a persona has no rationale")
        if entry.get("polarity") not in ("appreciative", "critical", "mixed"):
            raise InvalidAnswer("a persona has no polarity")
        checked.append(
            {
                **wording,
                "preference_rationale": rationale,
                "polarity": entry["polarity"],
                "evidence": [number for number in entry["evidence"] if isinstance(number, int)],
            }
        )
    return checked
