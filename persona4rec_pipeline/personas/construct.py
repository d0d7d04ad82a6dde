"""From an item's train reviews to its personas: grouped, worded, checked against their evidence.

Belongs here: what a persona is, the acceptance gate, and the three ways to one: by rules (extractive), by a small model
that tells what a group is about (compact profile), by a large model that reads everything (full profile). Does not belong here: how
groups are found (`grouping.py`) and the rules' wording (`wording.py`).

A model's answer is never trusted because it parsed. What the gate rejects is replaced by the extractive persona of the
same evidence, and the reason is kept; an item never falls out of the index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request, delimit
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.grouping import (
    Group,
    Polarity,
    TrainReview,
    collect_evidence,
    group_evidence,
)
from persona4rec_pipeline.personas.tastes import Embed, Taste, Tastes
from persona4rec_pipeline.personas.text import is_usable, repeats_itself, sentences, tidy, words
from persona4rec_pipeline.personas.wording import (
    PhraseStatistics,
    Wording,
    candidate_phrases,
    choose_phrases,
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
_MARKUP = re.compile(r"[<>{}\[\]|`]|https?:|www\.|\S+@\S+")


@dataclass(frozen=True)
class ItemEvidence:
    """All that persona construction reads of one item."""

    catalog: str
    item_id: str
    title: str
    summary: str
    categories: tuple[str, ...]
    reviews: tuple[TrainReview, ...]  # train reviews with enough aspects to be evidence
    tuples: tuple[tuple[str, str], ...]  # (review_id, "taste: ...; quality: ..."), for the full prompt


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
    quotes: tuple[str, ...]
    support: float | None
    source: Literal["llm", "extractive", "summary"]
    fallback_reason: str | None = None

    @property
    def text(self) -> str:
        return f"{self.name}. {self.description}"


@dataclass(frozen=True)
class Templates:
    """The prompts of persona construction."""

    compact: PromptTemplate
    full: PromptTemplate


def construct_personas(
    items: Sequence[ItemEvidence],
    statistics: PhraseStatistics,
    tastes: Tastes,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    positive_rating: float,
    model: LanguageModel | None = None,
    templates: Templates | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> list[Persona]:
    """The personas of a batch of items, one to `settings.max_personas` each, in the order of the items.

    embed: texts -> float32 (n, d), unit length. With `model` (and `templates`) the model decides on tastes (compact
    profile) or writes the personas (full profile); without, rules do both. Deterministic but for the model.
    """
    groups = _group_items(items, tastes, embed, settings, domain, positive_rating)
    if model is not None and templates is not None and model.prompt_profile == "compact":
        decided = _decide_tastes(items, groups, tastes, domain, model, templates.compact, on_progress)
        chosen = _word_groups(items, decided, statistics, embed, domain)
    else:
        chosen = _word_groups(items, [_undecided(found) for found in groups], statistics, embed, domain)
        if model is not None and templates is not None:
            chosen = _written_by_model(items, chosen, embed, settings, domain, model, templates, on_progress)
    # One call for the whole batch: the encoder is slow on handfuls.
    vectors = embed([persona.text for found in chosen for persona in found])
    personas: list[Persona] = []
    start = 0
    for item, found in zip(items, chosen, strict=True):
        personas += _finish(item, found, vectors[start : start + len(found)], settings, domain)
        start += len(found)
    return personas


def acceptance_problem(
    name: str, description: str, title: str, support: float | None, settings: PersonaSettings, domain: Domain
) -> str | None:
    """Why a generated persona is not accepted, or None when it is.

    support: cosine similarity of its text to the centre of its evidence, None where it was not measured.
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
    if not re.search(rf"\b(?:{domain.person}s?|they|people|someone|those|who)\b", description, re.IGNORECASE):
        return "the description is not about a kind of person"
    if re.search(r"\b(?:I|my|me)\b", description):
        return "the description is in the first person"
    if repeats_itself(description):
        return "the description repeats itself"
    if _MARKUP.search(name + description) or not is_usable(description, domain):
        return "the text carries markup, a link or an instruction"
    if support is not None and support < settings.min_support:
        return f"its evidence does not support it ({support:.2f} < {settings.min_support:.2f})"
    return None


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
    evidence = [
        collect_evidence(item.reviews, domain, positive_rating, settings.max_evidence_sentences) for item in items
    ]
    vectors = embed([sentence.text for found in evidence for sentence in found])
    groups: list[list[Group]] = []
    start = 0
    for found in evidence:
        rows = vectors[start : start + len(found)]
        groups.append(group_evidence(found, rows, tastes, settings.max_personas, settings.merge_similarity))
        start += len(found)
    return groups


@dataclass(frozen=True)
class _Decided:
    """A group with its final taste, who decided on it, and why the model's decision was not taken."""

    group: Group
    source: Literal["llm", "extractive"] = "extractive"
    fallback_reason: str | None = None


def _undecided(groups: Sequence[Group]) -> list[_Decided]:
    return [_Decided(group) for group in groups]


def _word_groups(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[_Decided]],
    statistics: PhraseStatistics,
    embed: Embed,
    domain: Domain,
) -> list[list[Persona]]:
    candidates = [
        [candidate_phrases(decided.group, statistics, item.title, domain) for decided in found]
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
    texts = [persona.text for personas in worded for persona in personas]
    support = iter(_support(embed(texts), [decided.group.centre for found in groups for decided in found]))
    return [[replace(persona, support=next(support)) for persona in personas] for personas in worded]


def _decide_tastes(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    tastes: Tastes,
    domain: Domain,
    model: LanguageModel,
    template: PromptTemplate,
    on_progress: Callable[[str], None] | None,
) -> list[list[_Decided]]:
    """The compact profile: rules find the groups, the model says which of the closest tastes each is about.

    Groups with fewer than two tastes to choose from are not asked about, and stay extractive without a reason: nothing
    was rejected.
    """
    options = [[_tastes_of(group, found, tastes) for group in found] for found in groups]
    requests = [
        _compact_request(item, group, [taste.name for taste in near], domain, template)
        for item, found, listed in zip(items, groups, options, strict=True)
        for group, near in zip(found, listed, strict=True)
        if len(near) > 1
    ]
    answers = model.generate(requests, on_progress=on_progress)
    decided: list[list[_Decided]] = []
    for found, listed in zip(groups, options, strict=True):
        taken: set[str] = set()
        of_item: list[_Decided] = []
        for group, near in zip(found, listed, strict=True):
            answer = next(answers) if len(near) > 1 else None
            outcome = _Decided(group)
            if answer is not None and not answer.ok:
                outcome = _Decided(group, fallback_reason=answer.reason)
            elif answer is not None and answer.value in taken:
                reason = "another persona of the item is about the taste that the model chose"
                outcome = _Decided(group, fallback_reason=reason)
            elif answer is not None:
                picked = next(taste for taste in near if taste.name == answer.value)
                outcome = _Decided(replace(group, taste=picked), source="llm")
            if outcome.group.taste is not None:
                taken.add(outcome.group.taste.name)
            of_item.append(outcome)
        decided.append(of_item)
    return decided


def _tastes_of(group: Group, siblings: Sequence[Group], tastes: Tastes) -> list[Taste]:
    """What the model may choose from: the group's taste and its near ties, without the tastes of the item's other groups.

    Empty for a group without a taste: talk about nothing in particular would get one by chance.
    """
    if group.taste is None:
        return []
    others = {other.taste.name for other in siblings if other is not group and other.taste is not None}
    near = tastes.nearest(group.centre, group.polarity == "critical", MAX_TASTES)
    if group.taste.name not in {taste.name for taste in near}:
        near.append(group.taste)
    return [taste for taste in near if taste.name not in others]


def _written_by_model(
    items: Sequence[ItemEvidence],
    extractive: Sequence[Sequence[Persona]],
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    model: LanguageModel,
    templates: Templates,
    on_progress: Callable[[str], None] | None,
) -> list[list[Persona]]:
    """The full profile: the model reads summary and tuples and writes all personas of an item at once."""
    asked = [(item, fallback) for item, fallback in zip(items, extractive, strict=True) if item.tuples]
    requests = [_full_request(item, settings, domain, templates.full) for item, _ in asked]
    results = {
        item.item_id: result
        for (item, _), result in zip(
            asked, model.generate(requests, check=_check_personas, on_progress=on_progress), strict=True
        )
    }
    chosen: list[list[Persona]] = []
    for item, fallback in zip(items, extractive, strict=True):
        result = results.get(item.item_id)
        if result is None:
            chosen.append(list(fallback))
            continue
        if result.status == "failed":
            chosen.append([replace(persona, fallback_reason=result.reason) for persona in fallback])
            continue
        accepted, reasons = _accept(item, result.value, embed, settings, domain)
        wanted = 1 if len(item.reviews) == 1 else 2
        for persona in fallback:
            if len(accepted) >= wanted:
                break
            identifier = persona_identifier(persona.name, [p.persona_id for p in accepted])
            reason = reasons[0] if reasons else "the model wrote too few personas"
            accepted.append(replace(persona, persona_id=identifier, fallback_reason=reason))
        chosen.append(accepted)
    return chosen


def _accept(
    item: ItemEvidence, answer: Sequence[dict[str, Any]], embed: Embed, settings: PersonaSettings, domain: Domain
) -> tuple[list[Persona], list[str]]:
    texts_of = {review.review_id: review.text for review in item.reviews}
    shown = item.tuples[:MAX_PROMPT_TUPLES]
    accepted: list[Persona] = []
    reasons: list[str] = []
    for entry in answer:
        ids = list(dict.fromkeys(shown[n - 1][0] for n in entry["evidence"] if 1 <= n <= len(shown)))
        if not ids:
            reasons.append("it names no review as evidence")
            continue
        said = [s.text for review_id in ids for s in sentences(texts_of[review_id]) if is_usable(s.text, domain)]
        vectors = embed([f"{entry['name']}. {entry['description']}", *said])
        closeness = vectors[1:] @ vectors[0]
        # The best half of its sentences: a review says more than what this persona rests on.
        best = np.sort(closeness)[::-1][: max(1, (len(said) + 1) // 2)]
        support = float(best.mean()) if len(said) else None
        problem = acceptance_problem(entry["name"], entry["description"], item.title, support, settings, domain)
        if problem is None and entry["name"].lower() in {persona.name.lower() for persona in accepted}:
            problem = "the name is already taken by another persona of the item"
        if problem is not None:
            reasons.append(problem)
            continue
        order = np.argsort(-closeness, kind="stable")
        accepted.append(
            Persona(
                item.item_id,
                persona_identifier(entry["name"], [p.persona_id for p in accepted]),
                entry["name"],
                entry["description"],
                entry["preference_rationale"],
                entry["polarity"],
                tuple(ids),
                tuple(tidy(said[row], MAX_QUOTE_CHARACTERS) for row in order[:MAX_QUOTES]),
                support,
                "llm",
            )
        )
    return accepted[: settings.max_personas], reasons


def _finish(
    item: ItemEvidence, personas: Sequence[Persona], vectors: np.ndarray, settings: PersonaSettings, domain: Domain
) -> list[Persona]:
    """Unite near-duplicates, and see to it that somebody can take to the item.

    vectors: float32 (len(personas), d), unit length, of the personas' texts.
    """
    kept: list[Persona] = []
    rows: list[int] = []
    for row, persona in enumerate(personas):
        twin = next(
            (
                place
                for place, other in enumerate(rows)
                if kept[place].polarity == persona.polarity
                and float(vectors[other] @ vectors[row]) >= settings.duplicate_similarity
            ),
            None,
        )
        if twin is None:
            kept.append(persona)
            rows.append(row)
        else:
            united = tuple(dict.fromkeys(kept[twin].evidence_review_ids + persona.evidence_review_ids))
            quotes = tuple(dict.fromkeys(kept[twin].quotes + persona.quotes))[:MAX_QUOTES]
            kept[twin] = replace(kept[twin], evidence_review_ids=united, quotes=quotes)
    if all(persona.polarity == "critical" for persona in kept):
        wording = summary_wording(item.title, item.summary, item.categories, domain)
        kept = kept[: settings.max_personas - 1]
        kept.append(
            Persona(
                item.item_id,
                persona_identifier(wording.name, [p.persona_id for p in kept]),
                wording.name,
                tidy(wording.description, MAX_DESCRIPTION_CHARACTERS),
                tidy(wording.preference_rationale, MAX_RATIONALE_CHARACTERS),
                "mixed",
                (),
                (),
                None,
                "summary",
            )
        )
    return kept


def _persona(item: ItemEvidence, wording: Wording, decided: _Decided, taken: Iterable[str]) -> Persona:
    group = decided.group
    return Persona(
        item.item_id,
        persona_identifier(wording.name, taken),
        wording.name,
        tidy(wording.description, MAX_DESCRIPTION_CHARACTERS),
        tidy(wording.preference_rationale, MAX_RATIONALE_CHARACTERS),
        group.polarity,
        tuple(group.review_ids),
        tuple(tidy(sentence.text, MAX_QUOTE_CHARACTERS) for sentence in group.evidence[:MAX_QUOTES]),
        None,
        decided.source,
        decided.fallback_reason,
    )


def _support(vectors: np.ndarray, centres: Sequence[np.ndarray]) -> list[float]:
    return [float(vector @ centre) for vector, centre in zip(vectors, centres, strict=True)]


def _compact_request(
    item: ItemEvidence, group: Group, tastes: Sequence[str], domain: Domain, template: PromptTemplate
) -> Request:
    said = " | ".join(delimit(sentence.text, 200) for sentence in group.evidence[:MAX_PROMPT_SENTENCES])
    # In alphabetical order, so that the first is not always the one that similarity favours.
    choices = tuple(sorted(tastes))
    return Request(
        task="personas",
        subject=f"{item.catalog}/item/{item.item_id}",
        messages=template.render(domain=domain, evidence=said, tastes=choices),
        template=template.fingerprint,
        choices=choices,
        max_tokens=16,
    )


def _full_request(item: ItemEvidence, settings: PersonaSettings, domain: Domain, template: PromptTemplate) -> Request:
    shown = item.tuples[:MAX_PROMPT_TUPLES]
    most = 1 if len(item.reviews) == 1 else max(2, min(settings.max_personas, len(shown)))
    persona = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 5, "maxLength": 60},
            "description": {"type": "string", "minLength": 30, "maxLength": MAX_DESCRIPTION_CHARACTERS},
            "preference_rationale": {"type": "string", "minLength": 20, "maxLength": MAX_RATIONALE_CHARACTERS},
            "polarity": {"enum": ["appreciative", "critical", "mixed"]},
            "evidence": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": len(shown)},
                "minItems": 1,
                "maxItems": min(8, len(shown)),
            },
        },
        "required": ["name", "description", "preference_rationale", "polarity", "evidence"],
        "additionalProperties": False,
    }
    return Request(
        task="personas",
        subject=f"{item.catalog}/item/{item.item_id}",
        messages=template.render(
            domain=domain,
            title=delimit(item.title, 160),
            summary=delimit(item.summary, 500),
            evidence=[delimit(line, 260) for _, line in shown],
            fewest=min(2, most),
            most=most,
        ),
        template=template.fingerprint,
        schema={"type": "array", "items": persona, "minItems": min(2, most), "maxItems": most},
        max_tokens=190 * most,
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
