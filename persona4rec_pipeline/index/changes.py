"""What changes from one generation to the next: added, updated and removed items as segments, and their compaction.

Belongs here: which segments are kept, what is dead in them, when many become one, and an index that is changed without a
warehouse. Does not belong here: the files of a segment (`segments`), publication (`files`), the queries (`build`).

An updated item is dead in its old segment and alive in the new one; a removed one is dead. Segments are linked from one
generation to the next, so that a night costs what it changed. Compaction writes one segment of all that is alive: when there
are too many, when too much of them is dead, or when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from persona4rec_pipeline.index import files
from persona4rec_pipeline.index.files import CatalogCounts, IndexMissing, Publication, Published, SegmentCounts
from persona4rec_pipeline.index.segments import (
    Segment,
    link_segment,
    merge_segments,
    open_segment,
    write_segment,
    write_state,
)

# Each segment costs a scan a little, and a dead persona as much as a living one.
MAX_SEGMENTS = 8
MAX_DEAD_SHARE = 0.25
UNIT_TOLERANCE = 1e-2

# Writes the fixed files of a segment of these items, ordered by item_id, into a new folder.
WriteItems = Callable[[Path, Sequence[str]], SegmentCounts]


@dataclass(frozen=True)
class NewPersona:
    """A persona to be put into the index; vector: float32 (d,) of unit length, by the encoder of the index."""

    persona_id: str
    name: str
    description: str
    preference_rationale: str
    polarity: str
    vector: Sequence[float] | np.ndarray
    quotes: Sequence[str] = ()
    evidence_review_ids: Sequence[str] = ()
    source: str = "llm"


@dataclass(frozen=True)
class NewItem:
    """An item to be put into the index, or to take the place of the one of that name.

    vector: float32 (d,) of unit length, of the text that an interaction with the item has if nothing is said
    (`encoder/texts.py`), None for an item that makes no profile. popularity: positive train interactions.
    """

    catalog: str
    item_id: str
    title: str
    personas: Sequence[NewPersona]
    summary: str = ""
    categories: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    vector: Sequence[float] | np.ndarray | None = None
    popularity: int = 0


def write_changes(
    folder: Path,
    catalog: str,
    dimension: int,
    current: Published | None,
    wanted: Mapping[str, str],
    popularity: Mapping[str, int],
    write: WriteItems,
) -> CatalogCounts:
    """Write a catalogue's shard into a new generation's folder, taking over from the current one what is the same.

    wanted: item_id to the hash of all that is to be stored of it (`made_from`). popularity: of items that have any. `write`
    is called with the items that are new or different, or with all of them where that is the better way.
    """
    kept = _open_shard(current, catalog, dimension)
    stored = {
        item_id: (number, row, made_from)
        for number, segment in enumerate(kept)
        for row, (item_id, made_from) in enumerate(
            zip(*(segment.items.column(name).to_pylist() for name in ("item_id", "made_from")), strict=True)
        )
        if not segment.dead[row]
    }
    changed = sorted(
        item_id for item_id, made_from in wanted.items() if stored.get(item_id, (0, 0, ""))[2] != made_from
    )
    replaced = [(number, row) for item_id, (number, row, made) in stored.items() if wanted.get(item_id) != made]
    dead = [segment.dead.copy() for segment in kept]
    for number, row in replaced:
        dead[number][row] = True
    target = files.shard_folder(folder, catalog)
    if not kept or len(kept) + bool(changed) > MAX_SEGMENTS or _is_mostly_dead(kept, dead, len(changed)):
        name = files.segment_name(1)
        item_ids = sorted(wanted)
        counts = write(target / name, item_ids)
        write_state(target / name, _popularity(item_ids, popularity), np.empty(0))
        return CatalogCounts(items=counts.items, personas=counts.personas, segments={name: counts})
    assert current is not None
    names = list(current.manifest.catalogs[catalog].segments)
    found: dict[str, SegmentCounts] = {}
    personas = 0
    for name, segment, gone in zip(names, kept, dead, strict=True):
        if gone.all() and len(gone):
            continue
        link_segment(files.segment_folder(current.path, catalog, name), target / name)
        item_ids = segment.items.column("item_id").to_pylist()
        write_state(target / name, _popularity(item_ids, popularity), np.flatnonzero(gone))
        found[name] = SegmentCounts(items=len(gone), personas=len(segment.vectors), dead=int(gone.sum()))
        personas += int(np.diff(segment.offsets)[~gone].sum())
    if changed:
        name = files.segment_name(1 + max((int(name.partition("=")[2]) for name in names), default=0))
        found[name] = write(target / name, changed)
        write_state(target / name, _popularity(changed, popularity), np.empty(0))
        personas += found[name].personas
    return CatalogCounts(items=len(wanted), personas=personas, segments=found)


def change_index(
    index_path: str | Path,
    upserts: Collection[NewItem] = (),
    removals: Collection[tuple[str, str]] = (),
    keep_generations: int = 5,
) -> Publication:
    """Add, update and remove items of the published index without a warehouse, as one new generation.

    upserts: items to add, or to put in the place of those of their name; the last one of a name counts. removals: (catalogue,
    item_id); what is not there is no error. Users, profiles and the rest stay as they are, and the next run of the pipeline
    publishes what the warehouse says. Raises IndexMissing where nothing was published yet, ValueError for vectors that are not
    of the index's dimension or not of unit length, for an unknown polarity, and for a persona_id that an item has twice.
    """

    def write(folder: Path, current: Published | None) -> files.Contents:
        current = _there(current, Path(index_path))
        dimension = current.manifest.dimension
        new = {(item.catalog, item.item_id): _checked(item, dimension) for item in upserts}
        gone = set(removals) - set(new)
        catalogs = {}
        for name in sorted({*current.manifest.catalogs, *(catalog for catalog, _ in new)}):
            own = {item_id: item for (catalog, item_id), item in new.items() if catalog == name}
            wanted, popularity, source = _state(current, name, dimension)
            wanted = {item_id: made for item_id, made in wanted.items() if (name, item_id) not in gone}
            wanted |= {item_id: _made_from(item) for item_id, item in own.items()}
            popularity |= {item_id: item.popularity for item_id, item in own.items()}
            writer = _Writer(own, source, dimension)
            catalogs[name] = write_changes(folder, name, dimension, current, wanted, popularity, writer)
            if not catalogs[name].items:
                raise ValueError(
                    f"Nothing would be left of catalogue {name}; take it out with `persona4rec remove-catalog`."
                )
        return _carried_over(folder, current, catalogs)

    return files.publish(Path(index_path), write, keep_generations)


def compact_index(index_path: str | Path, keep_generations: int = 5) -> Publication:
    """Publish a generation in which every catalogue is one segment, without dead items. Raises IndexMissing where none is."""

    def write(folder: Path, current: Published | None) -> files.Contents:
        current = _there(current, Path(index_path))
        catalogs = {}
        for name, counts in current.manifest.catalogs.items():
            if len(counts.segments) == 1 and not next(iter(counts.segments.values())).dead:
                files.link_files(files.shard_folder(current.path, name), files.shard_folder(folder, name))
                catalogs[name] = counts
                continue
            merged = merge_segments(
                files.segment_folder(folder, name, files.segment_name(1)),
                _open_shard(current, name, current.manifest.dimension),
                current.manifest.dimension,
            )
            catalogs[name] = CatalogCounts(
                items=merged.items, personas=merged.personas, segments={files.segment_name(1): merged}
            )
        return _carried_over(folder, current, catalogs)

    return files.publish(Path(index_path), write, keep_generations)


class _Writer:
    """Writes segments of items that are new, or that stand in the current generation."""

    def __init__(self, new: Mapping[str, NewItem], stored: Mapping[str, tuple[Segment, int]], dimension: int) -> None:
        self._new, self._stored, self._dimension = new, stored, dimension

    def __call__(self, folder: Path, item_ids: Sequence[str]) -> SegmentCounts:
        items, personas, vectors, item_vectors, counts = [], [], [], [], []
        for item_id in item_ids:
            if item_id in self._new:
                item = self._new[item_id]
                ordered = sorted(item.personas, key=lambda persona: persona.persona_id)
                items.append(
                    {
                        "item_id": item_id, "title": item.title, "summary": item.summary, "categories": list(item.categories),
                        "attributes": json.dumps(dict(item.attributes), sort_keys=True), "made_from": _made_from(item),
                    }
                )  # fmt: skip
                personas += [
                    {"item_id": item_id} | {name: _plain(getattr(persona, name)) for name in files.PERSONAS.names[1:]}
                    for persona in ordered
                ]
                vectors += [np.asarray(persona.vector, np.float16) for persona in ordered]
                none = np.zeros(self._dimension, np.float16)
                item_vectors.append(none if item.vector is None else np.asarray(item.vector, np.float16))
                counts.append(len(ordered))
            else:
                segment, row = self._stored[item_id]
                own = slice(int(segment.offsets[row]), int(segment.offsets[row + 1]))
                items += segment.items.slice(row, 1).to_pylist()
                personas += segment.personas.slice(own.start, own.stop - own.start).to_pylist()
                vectors += list(segment.vectors[own])
                item_vectors.append(segment.item_vectors[row])
                counts.append(own.stop - own.start)
        empty = np.empty((0, self._dimension), np.float16)
        return write_segment(
            folder,
            self._dimension,
            pa.Table.from_pylist(items, files.ITEMS).to_batches(),
            pa.Table.from_pylist(personas, files.PERSONAS).to_batches(),
            [np.stack(vectors) if vectors else empty],
            [np.stack(item_vectors) if item_vectors else empty],
            np.array(counts, np.int64),
        )


def _there(current: Published | None, index_path: Path) -> Published:
    if current is None:
        # Says what is wrong, in the words of whoever opens it.
        generation = files.current_generation(index_path)
        files.verify(generation, files.read_manifest(generation))
        raise IndexMissing(f"No persona index at {index_path}.")
    return current


def _state(
    current: Published, catalog: str, dimension: int
) -> tuple[dict[str, str], dict[str, int], dict[str, tuple[Segment, int]]]:
    """made_from, popularity and place of every item that is alive."""
    made: dict[str, str] = {}
    popularity: dict[str, int] = {}
    places: dict[str, tuple[Segment, int]] = {}
    for segment in _open_shard(current, catalog, dimension):
        columns = (segment.items.column(name).to_pylist() for name in ("item_id", "made_from"))
        for row, (item_id, made_from) in enumerate(zip(*columns, strict=True)):
            if not segment.dead[row]:
                made[item_id], places[item_id] = made_from, (segment, row)
                popularity[item_id] = int(segment.popularity[row])
    return made, popularity, places


def _open_shard(current: Published | None, catalog: str, dimension: int) -> list[Segment]:
    if current is None or catalog not in current.manifest.catalogs:
        return []
    return [
        open_segment(files.segment_folder(current.path, catalog, name), catalog, 0, counts, dimension)
        for name, counts in current.manifest.catalogs[catalog].segments.items()
    ]


def _is_mostly_dead(kept: Sequence[Segment], dead: Sequence[np.ndarray], changed: int) -> bool:
    items = sum(len(gone) for gone in dead) + changed
    return sum(int(gone.sum()) for gone in dead) > MAX_DEAD_SHARE * items


def _popularity(item_ids: Sequence[str], popularity: Mapping[str, int]) -> np.ndarray:
    return np.array([popularity.get(item_id, 0) for item_id in item_ids], np.int64)


def _carried_over(folder: Path, current: Published, catalogs: Mapping[str, CatalogCounts]) -> files.Contents:
    """The files that belong to no catalogue, linked, and what the new generation says of itself."""
    for name in current.manifest.files:
        if "/" not in name:
            (folder / name).hardlink_to(current.path / name)
    stated = {name: getattr(current.manifest, name) for name in files.Contents.model_fields}
    return files.Contents(**stated | {"catalogs": dict(catalogs)})


def _checked(item: NewItem, dimension: int) -> NewItem:
    where = f"{item.item_id} of catalogue {item.catalog}"
    named = {persona.persona_id for persona in item.personas}
    if len(named) < len(item.personas):
        raise ValueError(f"Two personas of item {where} have the same persona_id.")
    vectors = [(f"persona {persona.persona_id} of item {where}", persona.vector) for persona in item.personas]
    if item.vector is not None:
        vectors.append((f"item {where}", item.vector))
    for what, vector in vectors:
        found = np.asarray(vector, np.float32)
        if found.shape != (dimension,) or not abs(float(np.linalg.norm(found)) - 1) <= UNIT_TOLERANCE:
            raise ValueError(f"The vector of {what} is not {dimension} numbers of unit length.")
    for persona in item.personas:
        if persona.polarity not in files.POLARITY:
            raise ValueError(
                f"Persona {persona.persona_id} of item {where} has polarity {persona.polarity!r}; take {', '.join(files.POLARITY)}."
            )
    return item


def _made_from(item: NewItem) -> str:
    stated = asdict(item)
    del stated["popularity"]
    text = json.dumps(stated, sort_keys=True, default=lambda value: np.asarray(value, np.float16).tolist())
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value
