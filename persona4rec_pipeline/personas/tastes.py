"""Kinds of taste and of complaint as vectors, so that a sentence finds the one it is about.

Belongs here: the domain's tastes, encoded, and the search among them. Does not belong here: the words themselves
(`domain_words/`) and how a persona is worded (`wording.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persona4rec_pipeline.personas.domains import Domain

Embed = Callable[[Sequence[str]], np.ndarray]

# How much closer to a taste than idle talk a sentence must be, in cosine, to be about that taste. Of the sentences of
# real reviews about a third pass; read by eye, those below mostly do not belong to the taste that is closest to them.
MIN_ADVANTAGE = 0.28
# Cosines closer together than this do not decide between two tastes.
NEAR_TIE = 0.05
# What reviews of anything say. Some tastes are close to all of it ("read", "love", "story"); what they owe to that is
# taken off, or they would win everywhere.
_IDLE_TALK = (
    "I read it last week and finished it in two days.",
    "I had put this off for far too long.",
    "I would recommend it to anyone.",
    "It was as good as everybody says.",
    "I have been using it every day at home.",
    "My sister gave it to me for my birthday.",
    "There is a reason people still talk about it.",
    "I kept thinking about it on the train.",
    "Some parts were better than others.",
    "It has earned its place on my shelf.",
    "I did not expect to like it this much.",
    "What stays with me is the scene with the two of them.",
)


@dataclass(frozen=True, eq=False)
class Taste:
    """A kind of taste or complaint: its name, what such people look for or object to, and its unit vector, (d,).

    idle: mean cosine of the taste and idle talk.
    """

    name: str
    meaning: str
    vector: np.ndarray
    idle: float


class Tastes:
    """The tastes and complaints of one domain."""

    def __init__(self, domain: Domain, embed: Embed, near_tie: float = NEAR_TIE):
        """embed: texts -> float32 (n, d), unit length; near_tie: cosine below which two tastes are a tie."""
        self._near_tie = near_tie
        idle = embed(list(_IDLE_TALK))
        self._tastes = self._encoded(domain.tastes, embed, idle)
        self._complaints = self._encoded(domain.complaints, embed, idle)

    def of_sentences(self, vectors: np.ndarray, are_complaints: bool) -> list[Taste | None]:
        """The taste (or complaint) that each sentence is about, None where it is about none.

        vectors: float32 (n, d), unit length.
        """
        found = self._complaints if are_complaints else self._tastes
        if not len(vectors):
            return []
        idle = np.array([taste.idle for taste in found])
        advantage = vectors @ np.stack([taste.vector for taste in found]).T - idle
        best = advantage.argmax(axis=1)
        return [
            found[taste] if advantage[row, taste] >= MIN_ADVANTAGE else None for row, taste in enumerate(best.tolist())
        ]

    def nearest(self, centre: np.ndarray, are_complaints: bool, most: int) -> list[Taste]:
        """The tastes (or complaints) that a group's centre (d,) may well be about: the closest, and its near ties."""
        found = self._complaints if are_complaints else self._tastes
        advantage = {taste.name: float(taste.vector @ centre) - taste.idle for taste in found}
        ranked = sorted(found, key=lambda taste: (-advantage[taste.name], taste.name))
        least = advantage[ranked[0].name] - self._near_tie
        return [taste for taste in ranked[:most] if advantage[taste.name] >= least]

    @staticmethod
    def _encoded(entries: Mapping[str, str], embed: Embed, idle: np.ndarray) -> list[Taste]:
        vectors = embed([f"{name}: {meaning}" for name, meaning in entries.items()])
        return [
            Taste(name, meaning, vector, float((idle @ vector).mean()))
            for (name, meaning), vector in zip(entries.items(), vectors, strict=True)
        ]
