"""Nothing held out reaches anything: a word that stands only in held-out reviews, and an item that only they name, are looked
for in every table, prompt, encoded text and file that is made. Leaks that are put in on purpose are found."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from persona4rec_pipeline.alignment import assets as alignment
from persona4rec_pipeline.embedding import Encoder
from persona4rec_pipeline.encoder import vectors
from persona4rec_pipeline.evaluation import assets as evaluation
from persona4rec_pipeline.evaluation import candidates
from persona4rec_pipeline.generation import LanguageModel
from persona4rec_pipeline.generation.engine import Answer, Prompt
from persona4rec_pipeline.personas import assets as personas
from persona4rec_pipeline.personas import refresh
from persona4rec_pipeline.runner import STEPS, run_stale
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse
from persona4rec_tests.generation.scripted import ScriptedEngine
from persona4rec_tests.reviews.builders import json_lines, review, write
from persona4rec_tests.traces import files_that_hold

WORD = "zyqxvorp"
ITEM = "only-held-out"
CUT = datetime(2020, 3, 1)
PRAISE = [
    "The slow suspense and the sudden twist kept me up all night.",
    "Warm humour, and I laughed out loud on every second page.",
    "The landscapes are painted with so much love of nature.",
    "A detective who explains every clue at the end, which I like.",
]
TRAIN, OPEN = "split = 'train'", "split <> ''"


class House:
    """A catalogue whose reviews after CUT all hold WORD, and everything that is made of it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch):
        self.settings: Settings = load_settings(
            {},
            home=home,
            splits={"protocol": "temporal", "as_of": CUT},
            encoder={"epochs": 1, "max_seq_length": 32},
            evaluation={"generators": ["ease", "popularity"]},
            incoming={"settle_s": 0},
        )
        self.engine = ScriptedEngine(_answer)
        self.encoded: list[str] = []
        monkeypatch.setattr(LanguageModel, "_running", lambda model: self.engine)
        encode = Encoder.encode

        def noted(encoder, texts, on_progress=None):
            self.encoded.extend(texts)
            return encode(encoder, texts, on_progress)

        monkeypatch.setattr(Encoder, "encode", noted)
        rows = []
        for reader in range(16):
            taste = PRAISE[reader % len(PRAISE)]
            for place in range(7):
                item = f"i{(reader + place) % 9}"
                held_out = place >= 4
                day = 80 + place if held_out else 10 * place + reader % 10
                text = f"{taste} {WORD} makes it so. I want more {WORD}." if held_out else taste
                rows.append(review(f"u{reader}", item, day, text=text))
            rows.append(review(f"u{reader}", ITEM, 90, text=f"The {WORD} alone is worth it."))
        # The last ones before the cut are for validation: held out as well, and without the word they would not show.
        rows += [review(f"v{n}", f"i{n % 9}", 59, text=f"{PRAISE[n % 4]} {WORD}!") for n in range(12)]
        write(home / "incoming" / "books" / "reviews.jsonl", json_lines(rows))
        items = [
            {"item_id": f"i{number}", "title": f"Book number {number}", "description": "A novel."}
            for number in range(9)
        ]
        write(home / "incoming" / "books" / "items.jsonl", json_lines(items))

    def run(self, last: str = STEPS[-1][0]) -> None:
        """Make everything up to the step of this asset."""
        [end] = [place for place, step in enumerate(STEPS) if last in step]
        run_stale(self.settings, steps=STEPS[: end + 1])

    def places(self) -> set[str]:
        """Where the word, or the item, stands though nothing that is made may know it."""
        found = {"prompt" for prompt in self.engine.prompts if WORD in str(prompt.messages)}
        found |= {"encoded text" for text in self.encoded if WORD in text}
        warehouse = open_warehouse(self.settings)
        held_out = "SELECT review_id FROM splits WHERE split <> 'train'"
        for (table,) in warehouse.rows("SELECT table_name FROM duckdb_tables() WHERE NOT internal"):
            if table in ("reviews", "rejected_rows", "splits"):
                continue
            [(count,)] = warehouse.rows(
                f"SELECT count(*) FROM {table} AS made WHERE contains(made::VARCHAR, '{WORD}') "
                f"OR EXISTS (FROM ({held_out}) AS held WHERE contains(made::VARCHAR, held.review_id))"
            )
            found |= {table} if count else set()
        if warehouse.rows(f"SELECT 1 FROM candidates WHERE contains(item_id, '{ITEM}') LIMIT 1"):
            found.add("candidates")
        for (table,) in (ledger := open_ledger_database(self.settings)).rows("SELECT table_name FROM duckdb_tables()"):
            if ledger.rows(f"SELECT 1 FROM {table} AS made WHERE contains(made::VARCHAR, '{WORD}') LIMIT 1"):
                found.add(f"ledger {table}")
        for path in self.settings.index_path.rglob("*.arrow"):
            rows = json.dumps(pa.ipc.open_file(path).read_all().to_pylist(), default=str)
            # What an item is called is known without any review of it.
            if WORD in rows or (path.name in ("seen.arrow", "histories.arrow") and ITEM in rows):
                found.add(f"index {path.name}")
        for folder in ("mlflow", "reports", "evaluation", "index"):
            found |= {f"{folder}/{name}" for name in files_that_hold(self.settings.home / folder, WORD)}
        return found


def _answer(prompt: Prompt) -> Answer:
    """The first choice, or nothing usable: what is asked matters here, not what is answered."""
    if not prompt.choices:
        return Answer("{}", True, 10, 5)
    share = 1 / len(prompt.choices)
    return Answer(prompt.choices[0], True, 10, 1, dict.fromkeys(prompt.choices, share))


@pytest.fixture
def house(tmp_path, monkeypatch):
    return House(tmp_path, monkeypatch)


def opened(monkeypatch: pytest.MonkeyPatch, module, name: str) -> None:
    """Let a query, or a function with one in it, read held-out interactions."""
    found = getattr(module, name)
    if isinstance(found, str):
        assert TRAIN in found
        monkeypatch.setattr(module, name, found.replace(TRAIN, OPEN))
        return
    source = inspect.getsource(found)
    assert TRAIN in source
    made: dict[str, Callable] = {}
    exec(source.replace(TRAIN, OPEN), module.__dict__, made)
    monkeypatch.setattr(module, name, made[name])


def test_nothing_that_is_held_out_is_in_anything_that_is_made(house):
    house.run()
    assert house.engine.prompts and len(house.encoded) > 50, "the search must have something to search"
    warehouse = open_warehouse(house.settings)
    for table in (
        "review_aspects",
        "personas",
        "alignment_pairs",
        "candidates",
        "interaction_vectors",
        "evaluation_report",
    ):
        assert warehouse.rows(f"SELECT count(*) FROM {table}")[0][0] > 0
    assert warehouse.rows(f"SELECT count(*) FROM reviews WHERE contains(text, '{WORD}')")[0][0] > 50
    searched = {path.name for path in house.settings.index_path.rglob("*.arrow")}
    assert searched == {"items.arrow", "personas.arrow", "users.arrow", "histories.arrow", "seen.arrow"}
    assert warehouse.rows(f"SELECT count(*) FROM splits JOIN reviews USING (catalog, review_id) WHERE split = 'train' "
                          f"AND contains(text, '{WORD}')") == [(0,)]  # fmt: skip
    assert house.places() == set()


@pytest.mark.parametrize(
    ("module", "name", "last", "where"),
    [
        (refresh, "_CHANGED_REVIEWS", "personas", "review_aspects"),
        (personas, "_read_facts", "personas", "prompt"),
        (alignment, "_CHOICES", "alignment_pairs", "alignment_pairs"),
        (vectors, "_INTERACTIONS", "interaction_vectors", "interaction_vectors"),
        (candidates, "read_interactions", "candidates", "candidates"),
    ],
    ids=["aspects", "summaries", "pairs", "vectors", "candidates"],
)
def test_a_leak_is_found(house, monkeypatch, module, name, last, where):
    opened(monkeypatch, module, name)
    if name == "read_interactions":
        monkeypatch.setattr(evaluation, name, module.read_interactions)
    try:
        house.run(last)
    except RuntimeError as stopped:  # the checks of the pipeline itself stop some leaks before they spread
        assert "check" in str(stopped)
    assert where in house.places()
