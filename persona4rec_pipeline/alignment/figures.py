"""What the stored verdicts say of the judge: whether it favours a place, how sure it is, whether another judge agrees.

Belongs here: figures from the columns of `alignment_pairs`. Does not belong here: asking a judge, and showing figures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from persona4rec_pipeline.alignment.judge import average_orders
from persona4rec_pipeline.warehouse import Database

ENTROPY_BINS = 10


@dataclass(frozen=True)
class PositionBias:
    """What stands at each place gets, from the first place on, over `pairs` choices that were shown in some order.

    probability: mean per place, over the choices that have such a place; fair: what it would be if places meant nothing,
    the mean of 1 / options. distance: total variation (0-1) between the two as distributions over places; by chance
    alone it is not 0, but falls with the root of the number of pairs.
    """

    pairs: int
    probability: list[float]
    fair: list[float]
    distance: float


@dataclass(frozen=True)
class Agreement:
    """How often two judges choose the same option, over `pairs` choices.

    by_chance: what it would be if neither looked at the user (see `agreement`); kappa: (observed - by_chance) /
    (1 - by_chance), None where chance agrees always (Cohen 1960).
    """

    pairs: int
    observed: float
    by_chance: float
    kappa: float | None


@dataclass(frozen=True)
class JudgeFigures:
    """What `judge_figures` finds. Only pairs with more than one option count, `judged` of them; figures about none are None.

    position_before: in the first order shown; position_after: of the averaged probabilities, at the places of that order.
    changed_by_order: share of the pairs asked twice whose choice is another when the options stand the other way round.
    mean_entropy: over its highest value, 0 certain, 1 flat; entropy_counts: pairs in ENTROPY_BINS equal bins of it.
    agreement: of the language model with similarity; None where similarity is the judge.
    """

    pairs: int
    judged: int
    asked_twice: int
    position_before: PositionBias | None
    position_after: PositionBias | None
    changed_by_order: float | None
    mean_probability: float | None
    mean_entropy: float | None
    entropy_counts: list[int]
    agreement: Agreement | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)

    def main(self) -> dict[str, int | float]:
        """The figures that an asset shows, by name; those about nothing are left out."""
        found: dict[str, int | float | None] = {
            "mean_entropy": self.mean_entropy,
            "position_bias_before": self.position_before.distance if self.position_before else None,
            "position_bias_after": self.position_after.distance if self.position_after else None,
            "changed_by_order": self.changed_by_order,
            "agreement_with_similarity": self.agreement.observed if self.agreement else None,
            "agreement_by_chance": self.agreement.by_chance if self.agreement else None,
            "kappa": self.agreement.kappa if self.agreement else None,
        }
        return {name: value for name, value in found.items() if value is not None}


def judge_figures(database: Database, catalog: str | None = None) -> JudgeFigures:
    """The figures of all stored pairs, or of those of one catalogue."""
    where, parameters = ("", []) if catalog is None else ("WHERE catalog = ?", [catalog])
    rows = database.rows(
        f"""SELECT catalog || '/' || item_id, persona_id, similarity_persona_id, len(option_ids), option_probabilities,
                   shown_orders, order_probabilities, entropy, option_ids
            FROM alignment_pairs {where} ORDER BY catalog, review_id""",
        parameters,
    )
    judged = [row for row in rows if row[3] > 1]
    shown = [row for row in judged if row[5]]
    twice = [row for row in shown if len(row[5]) > 1]
    entropies = [row[7] for row in judged if row[7] is not None]
    # What the model itself would choose, whoever's verdict was taken.
    averaged: list[list[float]] = [
        row[6][0] if len(row[6]) == 1 else average_orders(np.array(row[6])).tolist() for row in shown
    ]
    compared = [
        (row[0], row[8][int(np.argmax(probabilities))], row[2], row[3])
        for row, probabilities in zip(shown, averaged, strict=True)
        if row[2] is not None
    ]
    return JudgeFigures(
        pairs=len(rows),
        judged=len(judged),
        asked_twice=len(twice),
        position_before=position_bias([(row[5][0], row[6][0]) for row in shown]),
        # Pairs asked once have nothing averaged: before and after must be over the same pairs, or compare other things.
        position_after=position_bias(
            [(row[5][0], probabilities) for row, probabilities in zip(shown, averaged, strict=True)]
        ),
        changed_by_order=changed_by_order([row[6] for row in twice]),
        mean_probability=float(np.mean([max(row[4]) for row in judged])) if judged else None,
        mean_entropy=float(np.mean(entropies)) if entropies else None,
        entropy_counts=entropy_counts(entropies),
        agreement=agreement(compared),
    )


def position_bias(shown: Sequence[tuple[Sequence[int], Sequence[float]]]) -> PositionBias | None:
    """The bias over choices: of each the positions of its options in the order shown, and the options' probabilities."""
    if not shown:
        return None
    places = max(len(order) for order, _ in shown)
    got, fair, counts = np.zeros(places), np.zeros(places), np.zeros(places)
    for order, probabilities in shown:
        got[: len(order)] += np.asarray(probabilities, np.float64)[list(order)]
        fair[: len(order)] += 1 / len(order)
        counts[: len(order)] += 1
    distance = float(np.abs(got - fair).sum() / 2 / len(shown))
    return PositionBias(len(shown), (got / counts).tolist(), (fair / counts).tolist(), distance)


def changed_by_order(by_order: Sequence[Sequence[Sequence[float]]]) -> float | None:
    """Share of choices whose likeliest option is not the same in the first two orders."""
    if not by_order:
        return None
    return float(np.mean([int(np.argmax(first)) != int(np.argmax(second)) for first, second, *_ in by_order]))


def entropy_counts(entropies: Sequence[float]) -> list[int]:
    """Entropies (0-1) counted in ENTROPY_BINS equal bins; the last one holds 1."""
    return np.histogram(np.asarray(entropies, np.float64), bins=ENTROPY_BINS, range=(0, 1))[0].tolist()


def agreement(verdicts: Sequence[tuple[str, str, str, int]]) -> Agreement | None:
    """Agreement over choices: of each its item, what the one judge and the other chose, and how many options there were.

    By chance two judges agree as often as the one's choice for one user equals the other's for another user of the same
    item, so that a persona that both favour for everyone is no agreement. An item with one choice has no other user:
    1 / options.
    """
    if not verdicts:
        return None
    by_item: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for item, one, other, options in verdicts:
        by_item[item].append((one, other, options))
    same = chance = 0.0
    for found in by_item.values():
        equal = sum(one == other for one, other, _ in found)
        same += equal
        if len(found) == 1:
            chance += 1 / found[0][2]
            continue
        ones, others = (Counter(entry[place] for entry in found) for place in (0, 1))
        crossed = sum(count * others[choice] for choice, count in ones.items()) - equal
        # Mean over pairs of different users, counted once per choice of the item.
        chance += crossed / (len(found) - 1)
    observed, by_chance = same / len(verdicts), chance / len(verdicts)
    kappa = (observed - by_chance) / (1 - by_chance) if by_chance < 1 else None
    return Agreement(len(verdicts), observed, by_chance, kappa)
