"""The full profile: a large language model reads an item's summary and evidence, and writes its personas.

Belongs here: what it is shown, its requests, and which of its personas are taken. Does not belong here: the gate itself
(`persona.py`) and the rules that fill up (`construct.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request, delimit
from persona4rec_pipeline.generation.scrub import publishable
from persona4rec_pipeline.personas.background import Catalogue, ItemEvidence
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.grouping import Group
from persona4rec_pipeline.personas.persona import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_QUOTE_CHARACTERS,
    MAX_QUOTES,
    MAX_RATIONALE_CHARACTERS,
    MAX_SUPPORTING,
    Persona,
    Rejected,
    Span,
    acceptance_problem,
    persona_identifier,
    rejection,
)
from persona4rec_pipeline.personas.polarity import Polarity, stated_polarity
from persona4rec_pipeline.personas.publishing import refusal
from persona4rec_pipeline.personas.tastes import Embed
from persona4rec_pipeline.personas.text import is_usable, sentences, tidy, words
from persona4rec_pipeline.personas.wording import claim
from persona4rec_pipeline.settings import PersonaSettings

# Aspect tuples that the prompt shows.
MAX_PROMPT_TUPLES = 40
# Tokens of a persona in an answer, of a tuple in the prompt, and of the rest of the prompt: what fits a context.
_PERSONA_TOKENS, _TUPLE_TOKENS, _PROMPT_TOKENS = 190, 80, 650


def write_personas(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    extractive: Sequence[Sequence[Persona]],
    catalogue: Catalogue,
    embed: Embed,
    settings: PersonaSettings,
    domain: Domain,
    model: LanguageModel,
    template: PromptTemplate,
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
                template,
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
            refused.append(rejection(persona, 1, problem))
    return accepted[: settings.max_personas], refused


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
