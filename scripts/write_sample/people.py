"""Invents the readers: how many reviews each writes, and their tastes, lives and manners."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from . import wording
from .model import Book, OneOff, Reader

# How many reviews people write (lowest, highest) and for which share of them. One reader in four writes one review;
# a handful write about thirty, as in real review data.
REVIEWS_PER_READER = (
    (1, 1, 0.25),
    (2, 2, 0.26),
    (3, 3, 0.19),
    (4, 4, 0.135),
    (5, 6, 0.09),
    (7, 9, 0.04),
    (10, 15, 0.024),
    (27, 31, 0.012),
)

REGISTERS = (
    ("plain", 0.40), ("terse", 0.12), ("gushing", 0.12), ("scholarly", 0.09),
    ("grumpy", 0.09), ("learner", 0.06), ("chatty", 0.12),
)  # fmt: skip


def invent_user_id(chance: random.Random) -> str:
    """Return an id of the shape Amazon uses: 28 capitals and digits, beginning with AE, AF, AG or AH."""
    letters = string.ascii_uppercase + "234567"
    return "A" + chance.choice("EFGH") + "".join(chance.choice(letters) for _ in range(26))


def invent_readers(
    chance: random.Random, count: int, books: Sequence[Book], lives: Sequence[str], one_offs: Sequence[OneOff]
) -> list[Reader]:
    """Return the readers, with each one-off review given to a reader who writes nothing else."""
    appreciative = sorted({motive_id for book in books for motive_id in book.appreciative})
    critical = sorted({motive_id for book in books for motive_id in book.critical})
    main_tastes = wording.Chooser(chance)
    counts = _review_counts(chance, count)
    readers = []
    for review_count in counts:
        wanted = 2 if review_count > 9 or chance.random() < 0.6 else 1
        # Main tastes are dealt evenly, so that none is rare by bad luck in a small sample.
        main = main_tastes.draw("main tastes", appreciative)
        tastes = [main, *chance.sample([motive_id for motive_id in appreciative if motive_id != main], 2)]
        late = tastes[2] if review_count > 9 or (review_count >= 5 and chance.random() < 0.35) else None
        readers.append(
            Reader(
                user_id=invent_user_id(chance),
                tastes=tastes[:wanted],
                late_taste=late,
                peeve=chance.choice(critical),
                life=chance.choice(lives),
                register=chance.choices([name for name, _ in REGISTERS], [share for _, share in REGISTERS])[0],
                american_spelling=chance.random() < 0.5,
                review_count=review_count,
            )
        )
    singles = [reader for reader in readers if reader.review_count == 1]
    for reader, one_off in zip(singles, one_offs, strict=False):
        reader.one_off = one_off
        if one_off.motive_id in appreciative:
            reader.tastes = [one_off.motive_id]
        elif one_off.motive_id is not None:
            reader.peeve = one_off.motive_id
    chance.shuffle(readers)
    return readers


def _review_counts(chance: random.Random, count: int) -> list[int]:
    """Return exact shares of each activity band, so that a change of seed does not change the size of the data."""
    counts: list[int] = []
    for lowest, highest, share in REVIEWS_PER_READER:
        counts.extend(chance.randint(lowest, highest) for _ in range(round(share * count)))
    while len(counts) < count:
        counts.append(2)
    return counts[:count]
