"""Step 5: personas and vectors become the published persona index, and the index answers.

Belongs here: the files of the index (`files`, `segments`), user profile and score (`scoring`), building (`build`) and changing
(`changes`), reading and searching (`reader`), and the Dagster asset (`assets`). Does not belong here: making personas or vectors, HTTP.

`PersonaIndex` needs numpy and pyarrow alone: importing this package must not pay for Dagster, torch, DuckDB or vLLM.
"""

from persona4rec_pipeline.index.answers import (
    Explanation,
    Item,
    PastInteraction,
    PersonaMatch,
    Recommendation,
    UnknownItem,
)
from persona4rec_pipeline.index.changes import NewItem, NewPersona, change_index, compact_index
from persona4rec_pipeline.index.files import IndexCorrupt, IndexMissing, IndexProblem
from persona4rec_pipeline.index.filters import Filters
from persona4rec_pipeline.index.reader import PersonaIndex, Tastes

__all__ = [
    "Explanation",
    "Filters",
    "IndexCorrupt",
    "IndexMissing",
    "IndexProblem",
    "Item",
    "NewItem",
    "NewPersona",
    "PastInteraction",
    "PersonaIndex",
    "PersonaMatch",
    "Recommendation",
    "Tastes",
    "UnknownItem",
    "change_index",
    "compact_index",
]
