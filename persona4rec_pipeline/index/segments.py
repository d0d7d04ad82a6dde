"""A segment: some items of a catalogue with their personas and vectors, written once, then only linked and mapped.

Belongs here: the files of one segment, written, opened, and merged with others. Does not belong here: generations and
their manifest (`files`), which items go into a segment (`build`, `changes`), answers (`reader`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona4rec_pipeline.index import files, kernels
from persona4rec_pipeline.index.files import IndexCorrupt, SegmentCounts

# What never changes once the segment is written; the rest, `popularity.npy` and `dead.npy`, is each generation's own.
FIXED_FILES = (
    "items.arrow", "personas.arrow", "offsets.npy", "polarity.npy", "vectors.npy", "codes.npy", "scales.npy", "errors.npy",
    "item_vectors.npy",
)  # fmt: skip
# Items that are merged at a time.
MERGED_ITEMS = 4_096


class Column:
    """One column of a mapped table; a cell is found by the number of its row, through all batches."""

    def __init__(self, table: pa.Table, name: str) -> None:
        self._chunks = table.column(name).chunks

    def __getitem__(self, row: int) -> Any:
        """The cell as a Python object."""
        return self._chunks[row >> files.BATCH_BITS][row & (files.BATCH_ROWS - 1)].as_py()


@dataclass(frozen=True)
class Segment:
    """An open segment: everything mapped from disk. Its items are rows `first` to `first + len(popularity)` of the index.

    dead: bool (items,). The arrays are described in `files`.
    """

    catalog: str
    first: int
    vectors: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    errors: np.ndarray
    offsets: np.ndarray
    polarity: np.ndarray
    item_vectors: np.ndarray
    popularity: np.ndarray
    dead: np.ndarray
    items: pa.Table
    personas: pa.Table
    item_columns: dict[str, Column]
    persona_columns: dict[str, Column]

    @property
    def rows(self) -> slice:
        """The rows of the index that are its items."""
        return slice(self.first, self.first + len(self.popularity))


def write_segment(
    folder: Path,
    dimension: int,
    items: Iterable[pa.RecordBatch],
    personas: Iterable[pa.RecordBatch],
    vectors: Iterable[np.ndarray],
    item_vectors: Iterable[np.ndarray],
    counts: np.ndarray,
) -> SegmentCounts:
    """Write the fixed files of a segment into a new folder; streamed, so that memory does not grow with the catalogue.

    items: batches of `files.ITEMS` in the order of item_id. counts: int64 (items,), personas of each item. personas:
    batches of `files.PERSONAS`, grouped by item in the order of the items. vectors, item_vectors: blocks, each (n, dimension),
    of the unit vectors of personas and items in the same order.
    """
    folder.mkdir(parents=True)
    total = int(counts.sum())
    offsets = files.write_array(folder / "offsets.npy", (len(counts) + 1,), "int64")
    offsets[0] = 0
    np.cumsum(counts, out=offsets[1:])
    polarity = files.write_array(folder / "polarity.npy", (total,), "int8")
    filled = 0

    def with_polarity() -> Iterator[pa.RecordBatch]:
        nonlocal filled
        for batch in personas:
            names = batch.column("polarity").to_pylist()
            polarity[filled : filled + len(names)] = [files.POLARITY[name] for name in names]
            filled += len(names)
            yield batch

    item_rows = files.write_table(folder / "items.arrow", items, files.ITEMS)
    persona_rows = files.write_table(folder / "personas.arrow", with_polarity(), files.PERSONAS)
    if (item_rows, persona_rows) != (len(counts), total):
        raise ValueError(
            f"{folder.name} was promised {len(counts)} items and {total} personas, but got {item_rows} and {persona_rows}."
        )
    written = _write_blocks(folder / "vectors.npy", (total, dimension), vectors)
    _write_blocks(folder / "item_vectors.npy", (len(counts), dimension), item_vectors)
    _write_codes(folder, written)
    for array in (offsets, polarity):
        files.flush(array)
    return SegmentCounts(items=len(counts), personas=total)


def write_state(folder: Path, popularity: np.ndarray, dead: np.ndarray) -> None:
    """Write what belongs to the generation: popularity, int64 (items,), and the dead rows, int64, ascending."""
    for name, values in (("popularity", popularity), ("dead", dead)):
        np.save(folder / f"{name}.npy", np.asarray(values, np.int64), allow_pickle=False)


def link_segment(source: Path, target: Path) -> None:
    """Take the fixed files of a segment over into another generation, without copying; `write_state` does the rest."""
    target.mkdir(parents=True)
    for name in FIXED_FILES:
        os.link(source / name, target / name)


def open_segment(folder: Path, catalog: str, first: int, counts: SegmentCounts, dimension: int) -> Segment:
    """Map a segment into memory; raises IndexCorrupt, naming the file, when something is wrong with it."""
    items = files.read_table(folder / "items.arrow", files.ITEMS)
    personas = files.read_table(folder / "personas.arrow", files.PERSONAS)
    dead_rows = files.read_array(folder / "dead.npy", (counts.dead,), "int64")
    if len(dead_rows) and not (dead_rows.min() >= 0 and dead_rows.max() < counts.items):
        raise IndexCorrupt(f"{folder / 'dead.npy'} names rows that are not there. {files.MEND}")
    dead = np.zeros(counts.items, bool)
    dead[dead_rows] = True
    segment = Segment(
        catalog=catalog,
        first=first,
        vectors=files.read_array(folder / "vectors.npy", (counts.personas, dimension), "float16"),
        codes=files.read_array(folder / "codes.npy", (counts.personas, dimension), "int8"),
        scales=files.read_array(folder / "scales.npy", (counts.personas,), "float32"),
        errors=files.read_array(folder / "errors.npy", (counts.personas,), "float32"),
        offsets=files.read_array(folder / "offsets.npy", (counts.items + 1,), "int64"),
        polarity=files.read_array(folder / "polarity.npy", (counts.personas,), "int8"),
        item_vectors=files.read_array(folder / "item_vectors.npy", (counts.items, dimension), "float16"),
        popularity=files.read_array(folder / "popularity.npy", (counts.items,), "int64"),
        dead=dead,
        items=items,
        personas=personas,
        item_columns={name: Column(items, name) for name in files.ITEMS.names},
        persona_columns={name: Column(personas, name) for name in files.PERSONAS.names},
    )
    fits = (
        items.num_rows == counts.items
        and personas.num_rows == counts.personas
        and segment.offsets[0] == 0
        and segment.offsets[-1] == counts.personas
        and (np.diff(segment.offsets) >= 0).all()
    )
    if not fits:
        raise IndexCorrupt(f"The files of {folder} do not fit each other. {files.MEND}")
    return segment


def merge_segments(folder: Path, segments: Sequence[Segment], dimension: int) -> SegmentCounts:
    """Write one segment of everything that is alive in several of one catalogue, ordered by item_id."""
    ids = [pc.cast(segment.items.column("item_id"), pa.string()).to_pylist() for segment in segments]
    alive = sorted(
        (item_id, number, row)
        for number, (segment, names) in enumerate(zip(segments, ids, strict=True))
        for row, item_id in enumerate(names)
        if not segment.dead[row]
    )
    sources = np.array([number for _, number, _ in alive], np.int64)
    rows = np.array([row for *_, row in alive], np.int64)
    starts, counts = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for number, segment in enumerate(segments):
        own = sources == number
        starts[own] = segment.offsets[rows[own]]
        counts[own] = segment.offsets[rows[own] + 1] - starts[own]

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(sources, item rows, personas) of some items at a time; sources and rows also of each persona."""
        for begin in range(0, len(rows), MERGED_ITEMS):
            yield (
                sources[begin : begin + MERGED_ITEMS],
                rows[begin : begin + MERGED_ITEMS],
                np.arange(begin, min(begin + MERGED_ITEMS, len(rows))),
            )

    def persona_rows(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own_counts = counts[places]
        local = np.cumsum(own_counts) - own_counts
        found = np.arange(own_counts.sum()) - np.repeat(local, own_counts) + np.repeat(starts[places], own_counts)
        return np.repeat(sources[places], own_counts), found

    def tables(of_personas: bool) -> Iterator[pa.RecordBatch]:
        for part_sources, part_rows, places in parts():
            if of_personas:
                part_sources, part_rows = persona_rows(places)
            yield from _gather(segments, part_sources, part_rows, of_personas).to_batches()

    def arrays(of_personas: bool) -> Iterator[np.ndarray]:
        for part_sources, part_rows, places in parts():
            if of_personas:
                part_sources, part_rows = persona_rows(places)
            block = np.empty((len(part_rows), dimension), np.float16)
            for number, segment in enumerate(segments):
                own = part_sources == number
                block[own] = (segment.vectors if of_personas else segment.item_vectors)[part_rows[own]]
            yield block

    written = write_segment(folder, dimension, tables(False), tables(True), arrays(True), arrays(False), counts)
    popularity = np.empty(len(rows), np.int64)
    for number, segment in enumerate(segments):
        popularity[sources == number] = segment.popularity[rows[sources == number]]
    write_state(folder, popularity, np.empty(0, np.int64))
    return written


def _gather(segments: Sequence[Segment], sources: np.ndarray, rows: np.ndarray, of_personas: bool) -> pa.Table:
    """Rows of several tables as one, in the order asked for."""
    found, places = [], []
    for number, segment in enumerate(segments):
        own = np.flatnonzero(sources == number)
        found.append((segment.personas if of_personas else segment.items).take(files.from_int64(rows[own])))
        places.append(own)
    back = np.empty(len(rows), np.int64)
    back[np.concatenate(places)] = np.arange(len(rows))
    return pa.concat_tables(found).combine_chunks().take(files.from_int64(back)).combine_chunks()


def _write_blocks(path: Path, shape: tuple[int, int], blocks: Iterable[np.ndarray]) -> np.ndarray:
    array = files.write_array(path, shape, "float16")
    filled = 0
    for block in blocks:
        array[filled : filled + len(block)] = block
        filled += len(block)
    if filled != shape[0]:
        raise ValueError(f"{path.name} was promised {shape[0]} vectors, but got {filled}.")
    files.flush(array)
    return array


def _write_codes(folder: Path, vectors: np.ndarray) -> None:
    codes = files.write_array(folder / "codes.npy", vectors.shape, "int8")
    scales = files.write_array(folder / "scales.npy", vectors.shape[:1], "float32")
    errors = files.write_array(folder / "errors.npy", vectors.shape[:1], "float32")
    for begin in range(0, len(vectors), files.BATCH_ROWS):
        block = slice(begin, begin + files.BATCH_ROWS)
        codes[block], scales[block], errors[block] = kernels.quantise(vectors[block])
    for array in (codes, scales, errors):
        files.flush(array)
