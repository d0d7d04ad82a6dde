"""The index as Parquet, read back without persona4rec and searched by an inner product, as any nearest-neighbour library does.

Run it after `make demo`; PERSONA4REC_HOME says where the index is (default: ./var). `persona4rec export-index FOLDER` writes the
same files.

    .venv/bin/python examples/nearest_neighbours_export.py [FOLDER]      # default: <home>/export

Vectors are of unit length, so the inner product is the cosine. With faiss the search below is

    faiss_index = faiss.IndexFlatIP(vectors.shape[1]); faiss_index.add(vectors)
    cosines, rows = faiss_index.search(profile[None], 50)

where `rows` are those of personas.parquet (column `row`); with hnswlib, `Index(space="ip", dim=vectors.shape[1])`. An approximate
search may miss what is near; `PersonaIndex.search` is exact and filters.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.index.export import export_index

K = 5


def main() -> None:
    home = Path(os.environ.get("PERSONA4REC_HOME", "var"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else home / "export"
    index = PersonaIndex.open(home / "index")
    for name, rows in export_index(index, folder).items():
        print(f"{folder / name}: {rows:,} rows")

    # From here on the files are enough.
    personas, users = pq.read_table(folder / "personas.parquet"), pq.read_table(folder / "users.parquet")
    # A critical persona says whom an item disappoints: being near to it is no reason to recommend the item.
    favourable = personas.filter(pc.not_equal(personas.column("polarity"), "critical"))
    vectors, profile = matrix(favourable), matrix(users)[0]
    cosines = vectors @ profile
    found: dict[tuple[str, str], tuple[float, str]] = {}
    # Several personas of one item may be near; the nearest one speaks for it.
    for row in np.argsort(-cosines, kind="stable").tolist():
        item = favourable.column("catalog")[row].as_py(), favourable.column("item_id")[row].as_py()
        found.setdefault(item, (float(cosines[row]), favourable.column("name")[row].as_py()))
        if len(found) == K:
            break

    user = users.column("user_id")[0].as_py()
    print(f"\nNearest to {user}, seen items among them:")
    for (catalog, item_id), (cosine, name) in found.items():
        print(f"  {cosine:.3f}  {catalog}/{item_id}  {name}")
    told = [(item.catalog, item.item_id) for item in index.search(profile, K)]
    print(f"PersonaIndex.search says {'the same' if told == list(found) else f'otherwise: {told}'}.")


def matrix(table: pa.Table) -> np.ndarray:
    """The column `vector`, float32 (n, d)."""
    column = table.column("vector").combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)


if __name__ == "__main__":
    main()
