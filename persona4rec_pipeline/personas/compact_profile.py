"""The compact profile: rules find the groups of an item, a small language model says what each is about.

Belongs here: its requests, and when its answer is taken. Does not belong here: how groups are found (`grouping.py`) and
worded (`wording.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from persona4rec_pipeline.generation import LanguageModel, PromptTemplate, Request, delimit
from persona4rec_pipeline.personas.background import Catalogue, ItemEvidence
from persona4rec_pipeline.personas.domains import Domain, Topic
from persona4rec_pipeline.personas.grouping import Group
from persona4rec_pipeline.personas.persona import MAX_SUPPORTING
from persona4rec_pipeline.personas.tastes import Embed

# Sentences of a group that the prompt shows, and tastes among which the model chooses.
MAX_PROMPT_SENTENCES = 4
MAX_TASTES = 4


@dataclass(frozen=True)
class Decided:
    """A group with its final taste, who decided on it, and why the model's decision was not taken."""

    group: Group
    source: Literal["llm", "extractive"] = "extractive"
    fallback_reason: str | None = None


def decide_tastes(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    domain: Domain,
    model: LanguageModel,
    template: PromptTemplate,
    on_progress: Callable[[str], None] | None,
) -> list[list[Decided]]:
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
    decided: list[list[Decided]] = []
    for found, listed in zip(groups, options, strict=True):
        taken: set[str] = set()
        of_item: list[Decided] = []
        for group, near in zip(found, listed, strict=True):
            outcome = Decided(group)
            if len(near) > 1:
                first, second = next(answers), next(answers)
                if not (first.ok and second.ok):
                    outcome = Decided(group, fallback_reason=first.reason or second.reason)
                elif first.value != second.value:
                    outcome = Decided(group, fallback_reason="the model's choice turned with the order of the tastes")
                elif first.value in taken:
                    reason = "another persona of the item is about the taste that the model chose"
                    outcome = Decided(group, fallback_reason=reason)
                else:
                    picked = next(taste for taste in near if taste.name == first.value)
                    outcome = Decided(replace(group, taste=picked), source="llm")
            if outcome.group.taste is not None:
                taken.add(outcome.group.taste.name)
            of_item.append(outcome)
        decided.append(of_item)
    return decided


def better_supported(
    items: Sequence[ItemEvidence],
    groups: Sequence[Sequence[Group]],
    decided: Sequence[Sequence[Decided]],
    catalogue: Catalogue,
    embed: Embed,
) -> list[list[Decided]]:
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
                kept[row][place] = Decided(group, fallback_reason=reason)
    return kept


def _tastes_of(group: Group, siblings: Sequence[Group]) -> list[Topic]:
    """What the model may choose from: the group's taste and its near ties, without the tastes of the item's other groups."""
    others = {other.taste.name for other in siblings if other is not group and other.taste is not None}
    near = [topic for topic in group.near if topic.name not in others][:MAX_TASTES]
    if group.taste is not None and group.taste not in near:
        near.append(group.taste)
    return near


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
