"""A run that a test kills: asks 40 questions of the real model and says which it has taken up.

python -m persona4rec_tests.generation.interrupted_run HOME
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from persona4rec_pipeline.generation import LanguageModel, Ledger, Request
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_ledger_database
from persona4rec_tests.generation.scripted import ask

CHUNK = 4
REQUESTS = 40


def requests() -> Iterator[Request]:
    for n in range(REQUESTS):
        print(f"taken {n}", flush=True)
        yield ask(f"Tell a story about the number {n}.", schema=SCHEMA, max_tokens=120)


SCHEMA = {
    "type": "object",
    "properties": {"story": {"type": "string", "minLength": 60, "maxLength": 120}},
    "required": ["story"],
    "additionalProperties": False,
}


def settings_of(home: Path) -> Settings:
    return load_settings(
        {}, home=home, generation={"checkpoint_every": CHUNK, "cpu_threads": 1, "kv_cache_gib": 1, "max_retries": 0}
    )


def main(home: Path) -> None:
    settings = settings_of(home)
    with LanguageModel(settings, Ledger(open_ledger_database(settings))) as model:
        print(f"done {len(list(model.generate(requests())))}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
