"""How well the personas of an item tell the motives that were planted in its reviews, on the sample catalogue of books.

    python -m persona4rec_tests.planted.persona_accuracy     (reads the warehouse of PERSONA4REC_HOME)

A persona matches a motive by what it says, not by what it rests on: it is about a taste (or complaint) that stands for
that motive in the table below, it has its polarity, and the motive is planted in the item. The table was made by hand
from the descriptions of both; a taste that only touches a motive ("Page-turner addict" and adventure) is not in it.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from persona4rec_pipeline.personas.domains import get_domain
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import Database, open_warehouse
from persona4rec_tests.planted.alignment_accuracy import BOOKS, read_motives

STANDS_FOR: Mapping[str, tuple[str, ...]] = {
    "witty_courtship": ("Slow-burn romance", "Passionate romance", "Witty dialogue", "Social comedy"),
    "gothic_dread": ("Gothic dread", "Ghost story", "Monsters and horror"),
    "inner_conscience": ("Psychological depth", "Moral dilemma"),
    "daring_adventure": ("High adventure", "Sea story"),
    "early_science_ideas": ("Early science fiction", "Future and dystopia", "Science and discovery"),
    "detective_puzzle": ("Detective puzzle",),
    "plain_laughter": ("Laugh-out-loud comedy", "Playful nonsense", "Social comedy"),
    "nature_solitude": ("Nature and solitude", "Animals and natural history"),
    "daily_philosophy": ("Practical wisdom", "Stoic calm"),
    "childhood_comfort": ("Childhood favourite", "Read-aloud pleasure"),
    "social_justice": ("Social justice", "Slavery and race"),
    "family_saga": ("Family saga",),
    "language_craft": ("Lyrical prose", "Poetry"),
    "living_history": ("Living history", "True history"),
    "too_slow": ("Slow pace",),
    "hard_prose": ("Dense prose",),
    "long_digressions": ("Long digression",),
    "sentimental_preachy": ("Sentimentality", "Preachiness"),
    "too_many_names": ("Too many names",),
    "dated_attitudes": ("Dated attitudes",),
    "unlikeable_people": ("Unlikeable people",),
}

# (item, name, polarity) of a persona.
Told = tuple[str, str, str]


@dataclass(frozen=True)
class PersonaAccuracy:
    """recall: share of the motives planted in an item, and told by a train review of it, that a persona matches.
    precision: share of the personas that match one. personas, motives: how many of each."""

    recall: float
    precision: float
    personas: int
    motives: int


@dataclass(frozen=True)
class Comparison:
    """The personas as they are, and two baselines that know nothing of the reviews: as many personas per item with names
    drawn by lot, of the same polarity; and one persona per item, with the taste that is most frequent in the catalogue."""

    made: PersonaAccuracy
    by_lot: PersonaAccuracy
    single: PersonaAccuracy


def persona_accuracy(warehouse: Database, truth: Path = BOOKS) -> Comparison:
    """The figures of what `personas` holds; personas from summaries make no claim and are left out."""
    planted = json.loads(truth.read_text())
    item_of = dict(warehouse.rows("SELECT review_id, item_id FROM reviews JOIN splits USING (catalog, review_id) "
                                  "WHERE split = 'train'"))  # fmt: skip
    motives: dict[str, set[str]] = defaultdict(set)
    for review_id, motive in read_motives(warehouse, truth).items():
        item = planted["items"][item_of[review_id]] if review_id in item_of else {"appreciative": [], "critical": []}
        if motive in item["appreciative"] or motive in item["critical"]:
            motives[item_of[review_id]].add(motive)
    made: list[Told] = warehouse.rows(
        "SELECT item_id, name, polarity FROM personas WHERE source <> 'summary' ORDER BY item_id, persona_id"
    )
    domain = get_domain("book")
    chance = random.Random(7)
    tastes = sorted(topic.who for topic in domain.tastes.values())
    complaints = sorted(topic.who for topic in domain.complaints.values())
    by_lot = [(item, chance.choice(complaints if polarity == "critical" else tastes), polarity)
              for item, _, polarity in made]  # fmt: skip
    names = [name for _, name, polarity in made if polarity == "appreciative"]
    commonest = max(sorted(set(names)), key=names.count) if names else ""
    single = [(item, commonest, "appreciative") for item in sorted(motives)]
    of_motive = {motive["id"]: motive["polarity"] for motive in planted["motives"]}
    measure = _Measure(motives, of_motive, planted["items"])
    return Comparison(measure.of(made), measure.of(by_lot), measure.of(single))


class _Measure:
    def __init__(
        self, told: Mapping[str, set[str]], polarity_of: Mapping[str, str], items: Mapping[str, Mapping[str, list[str]]]
    ):
        domain = get_domain("book")
        taste_of = {topic.who: topic.name for topic in [*domain.tastes.values(), *domain.complaints.values()]}
        self._motives_of_name: dict[str, set[str]] = defaultdict(set)
        for who, taste in taste_of.items():
            found = {motive for motive, tastes in STANDS_FOR.items() if taste in tastes}
            self._motives_of_name[who] = found
            self._motives_of_name[f"Half-convinced {who[:1].lower()}{who[1:]}"] = found
        self._told, self._polarity_of, self._items = told, polarity_of, items

    def of(self, personas: Iterable[Told]) -> PersonaAccuracy:
        matched: dict[str, set[str]] = defaultdict(set)
        right = total = 0
        for item, name, polarity in personas:
            planted = {*self._items[item]["appreciative"], *self._items[item]["critical"]}
            found = {
                motive
                for motive in self._motives_of_name[name] & planted
                if (self._polarity_of[motive] == "critical") == (polarity == "critical")
            }
            matched[item] |= found
            right += bool(found)
            total += 1
        motives = sum(map(len, self._told.values()))
        hits = sum(len(matched[item] & told) for item, told in self._told.items())
        return PersonaAccuracy(hits / motives, right / max(total, 1), total, motives)


def main() -> None:
    found = persona_accuracy(open_warehouse(load_settings()))
    for name in ("made", "by_lot", "single"):
        figures = getattr(found, name)
        print(
            f"{name:7} recall {figures.recall:.3f} of {figures.motives} motives, precision {figures.precision:.3f} "
            f"of {figures.personas} personas"
        )


if __name__ == "__main__":
    main()
