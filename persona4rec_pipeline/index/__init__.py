"""Step 5: personas and vectors become the published persona index, and the index answers.

Belongs here: the files of the index (`files`), user profile and score (`scoring`), building (`build`), reading and
searching (`reader`), and the Dagster asset (`assets`). Does not belong here: making personas or vectors, HTTP.

`PersonaIndex` needs numpy and pyarrow alone: importing this package must not pay for Dagster, torch, DuckDB or vLLM.
"""

from persona4rec_pipeline.index.files import IndexCorrupt, IndexMissing, IndexProblem
from persona4rec_pipeline.index.reader import Explanation, PersonaIndex, PersonaMatch, Recommendation, UnknownItem

__all__ = [
    "Explanation",
    "IndexCorrupt",
    "IndexMissing",
    "IndexProblem",
    "PersonaIndex",
    "PersonaMatch",
    "Recommendation",
    "UnknownItem",
]
