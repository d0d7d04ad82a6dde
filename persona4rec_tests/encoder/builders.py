"""What the tests of this room build from: texts of two tastes, training pairs, and a hand-filled warehouse."""

import random
from datetime import datetime, timedelta

from persona4rec_pipeline.encoder.pairs import TrainingPair
from persona4rec_pipeline.encoder.texts import interaction_text, persona_text
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse

BASE = "all-minilm-l6-v2"
# What a reader says, and the persona behind it; worded so far apart that an untrained encoder is unsure.
TASTES = {
    "night shift": ("short chapters that I can pause", "The Interrupted Reader", "Reads in snatches between duties."),
    "grandmother": ("large print and gentle plots", "The Comfort Seeker", "Wants kindness and no bloodshed."),
    "exam": ("clear diagrams and exercises", "The Careful Student", "Learns step by step for a test."),
    "flight": ("a plot that never lets go", "The Restless Traveller", "Needs suspense from the first page."),
}
WORDS = [
    *("river", "stone", "paper", "lamp", "garden", "winter", "harbour"),
    *("signal", "copper", "meadow", "engine", "thunder", "window", "ladder"),
]


def settings(home, **encoder):
    return load_settings(
        {},
        home=home,
        encoder={"max_seq_length": 32, "batch_size": 8, "training_history": 2, "max_history": 2, **encoder},
    )


def training_pairs(count, seed=0):
    """`count` pairs of as many users and items; each user has one of the tastes and two interactions."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        purpose, (quality, name, description) = draw.choice(list(TASTES.items()))
        history = tuple(
            interaction_text(
                " ".join(draw.sample(WORDS, 2)),
                "",
                {"purchase_purpose": f"for a {purpose}", "quality_criteria": quality},
            )
            for _ in range(2)
        )
        persona = persona_text(name, description, f"Liked the {draw.choice(WORDS)} and the {draw.choice(WORDS)}.")
        pairs.append(TrainingPair(f"u{seed}-{number}", f"books/i{seed}-{number}", history, (persona,), (1.0,)))
    return pairs


def filled_warehouse(home, users=12, held_out=("u0",)):
    """One catalogue `books`: every user reviews items i0 to i2 on three days; the last one explains an alignment pair.

    The third interaction of a `held_out` user is a test interaction, so it is in no alignment pair.
    """
    warehouse = open_warehouse(settings(home))
    tastes = list(TASTES.items())
    with warehouse.write() as connection:
        for number in range(4):
            item = f"i{number}"
            connection.execute("INSERT INTO item_summaries VALUES ('books', ?, ?, ?, 'extractive')", [
                item, f"Title {WORDS[number]}", f"A book about {WORDS[number + 4]}."
            ])  # fmt: skip
            for place, (_, (_, name, description)) in enumerate(tastes):
                connection.execute(
                    "INSERT INTO personas BY NAME SELECT 'books' AS catalog, ? AS item_id, ? AS persona_id, ? AS name, "
                    "? AS description, ? AS preference_rationale, 'appreciative' AS polarity, "
                    "[]::VARCHAR[] AS evidence_review_ids, []::VARCHAR[] AS quotes, 'extractive' AS source",
                    [item, f"p{place}", name, description, f"Likes the {WORDS[number]}."],
                )
        for number in range(users):
            user = f"u{number}"
            purpose, (quality, _, _) = tastes[number % len(tastes)]
            for day in range(3):
                review = f"{user}-{day}"
                item = f"i{(number + day) % 4}"
                at = datetime(2024, 1, 1) + timedelta(days=day, minutes=number)
                split = "test" if day == 2 and user in held_out else "train"
                connection.execute(
                    "INSERT INTO reviews VALUES ('books', ?, ?, ?, 5, TRUE, NULL, 'text', ?)", [review, user, item, at]
                )
                connection.execute("INSERT INTO splits VALUES ('books', ?, ?, ?)", [review, split, split == "test"])
                if split == "train":
                    connection.execute(
                        "INSERT INTO review_aspects BY NAME SELECT 'books' AS catalog, ? AS review_id, ? AS item_id, "
                        "? AS user_id, ? AS purchase_purpose, ? AS quality_criteria, TRUE AS is_evidence, "
                        "'extractive' AS source",
                        [review, item, user, f"for a {purpose}", quality],
                    )
            if user not in held_out:
                persona = f"p{number % len(tastes)}"
                connection.execute(
                    "INSERT INTO alignment_pairs BY NAME SELECT 'books' AS catalog, ? AS review_id, ? AS user_id, "
                    "? AS item_id, ? AS persona_id, 0.9 AS probability, [?] AS option_ids, "
                    "[1.0] AS option_probabilities, [?, ?] AS history_review_ids, ? AS reviewed_at, "
                    "'similarity' AS source",
                    [f"{user}-2", user, f"i{(number + 2) % 4}", persona, persona, f"{user}-1", f"{user}-0", at],
                )
    return warehouse
