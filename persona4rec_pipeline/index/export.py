"""The index as Parquet, for tools that know nothing of it: nearest-neighbour libraries, notebooks, other languages.

Belongs here: what is written, in which columns. Does not belong here: the index's own files (`files`), spreadsheets
(`exports.py` of the package).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from persona4rec_pipeline.index import files
from persona4rec_pipeline.index.reader import PersonaIndex

EXPORTED_ROWS = 16_384


def export_index(index: PersonaIndex, folder: str | Path) -> dict[str, int]:
    """Write what is alive in an open index as Parquet; returns the rows of each file.

    personas.parquet: catalog, the columns of `files.PERSONAS`, row (int64, from 0, the order of this file) and vector.
    items.parquet: catalog, the columns of `files.ITEMS` but `made_from`, train_popularity and vector (zeros: no text).
    users.parquet: the columns of `files.USERS` and vector, the profile.

    A vector is a fixed-size list of float32, of unit length up to half precision: an inner product is the cosine. Items in the
    order of catalogue and segment, personas in that of their items. Files of the same name are replaced, each at once.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vector = pa.list_(pa.float32(), index.dimension)
    catalog, numbered = pa.field("catalog", pa.string()), pa.field("row", pa.int64())
    described = [field for field in files.ITEMS if field.name != "made_from"]
    return {
        "personas.parquet": _write(
            folder / "personas.parquet",
            pa.schema([catalog, *files.PERSONAS, numbered, pa.field("vector", vector)]),
            _personas(index),
        ),
        "items.parquet": _write(
            folder / "items.parquet",
            pa.schema([catalog, *described, pa.field("train_popularity", pa.int64()), pa.field("vector", vector)]),
            _items(index, [field.name for field in described]),
        ),
        "users.parquet": _write(
            folder / "users.parquet", pa.schema([*files.USERS, pa.field("vector", vector)]), _users(index)
        ),
    }


def _personas(index: PersonaIndex) -> Iterator[dict[str, object]]:
    first = 0
    for segment in index.segments:
        alive = np.flatnonzero(np.repeat(~segment.dead, np.diff(segment.offsets)))
        for rows in _blocks(alive):
            table = segment.personas.take(pa.array(rows))
            yield {
                "catalog": [segment.catalog] * len(rows),
                **{name: table.column(name) for name in files.PERSONAS.names},
                "row": np.arange(first, first + len(rows)),
                "vector": segment.vectors[rows],
            }
            first += len(rows)


def _items(index: PersonaIndex, names: list[str]) -> Iterator[dict[str, object]]:
    for segment in index.segments:
        for rows in _blocks(np.flatnonzero(~segment.dead)):
            table = segment.items.take(pa.array(rows))
            yield {
                "catalog": [segment.catalog] * len(rows),
                **{name: table.column(name) for name in names},
                "train_popularity": segment.popularity[rows],
                "vector": segment.item_vectors[rows],
            }


def _users(index: PersonaIndex) -> Iterator[dict[str, object]]:
    for rows in _blocks(np.arange(len(index.users))):
        ids = index.users[rows[0] : rows[-1] + 1]
        profiles = [index.profile_of(user_id) for user_id in ids]
        yield {
            "user_id": list(ids),
            "interactions": [index.interactions_of(user_id) for user_id in ids],
            "vector": np.array(profiles, np.float32),
        }


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), EXPORTED_ROWS):
        yield rows[start : start + EXPORTED_ROWS]


def _write(path: Path, schema: pa.Schema, blocks: Iterator[dict[str, object]]) -> int:
    aside = path.with_name(f".{path.name}.aside")
    rows = 0
    try:
        with pq.ParquetWriter(aside, schema) as writer:
            for block in blocks:
                columns = []
                for field in schema:
                    found = block[field.name]
                    if field.name == "vector":
                        flat = pa.array(np.asarray(found, np.float32).ravel())
                        columns.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
                    elif isinstance(found, pa.ChunkedArray):
                        columns.append(pc.cast(found, field.type).combine_chunks())
                    else:
                        columns.append(pa.array(found, field.type))
                table = pa.table(columns, schema=schema)
                writer.write_table(table)
                rows += table.num_rows
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return rows
