"""The users of a generation: their profiles, what these are made of, and what they have seen.

Belongs here: from a user_id to rows of the files. Does not belong here: items, scores, answers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona4rec_pipeline.index import files
from persona4rec_pipeline.index.files import IndexCorrupt, Manifest
from persona4rec_pipeline.index.segments import Column, Segment

DAY_S = 86_400


class People:
    """Open files of one generation, mapped from disk; safe to share between threads."""

    def __init__(self, folder: Path, manifest: Manifest, segments: Sequence[Segment]) -> None:
        """Raises IndexCorrupt, naming the file, when something is wrong with one."""
        users = files.read_table(folder / "users.arrow", files.USERS)
        # In alphabetical order of their bytes, as they were written.
        self.ids: tuple[str, ...] = tuple(users.column("user_id").to_pylist())
        self._interactions = files.to_int64(users.column("interactions"))
        self._rows = {user_id: row for row, user_id in enumerate(self.ids)}
        shape = (len(self.ids), manifest.dimension)
        self._profiles = files.read_array(folder / "profiles.npy", shape, "float16")
        self._offsets = files.read_array(folder / "history_offsets.npy", (len(self.ids) + 1,), "int64")
        history_shape = (manifest.history, manifest.dimension)
        self._vectors = files.read_array(folder / "history_vectors.npy", history_shape, "float16")
        history = files.read_table(folder / "histories.arrow", files.HISTORIES)
        self._past = {name: Column(history, name) for name in files.HISTORIES.names}
        if (self._offsets[0], self._offsets[-1], history.num_rows) != (0, manifest.history, manifest.history):
            raise IndexCorrupt(f"The histories of {folder} do not fit each other. {files.MEND}")
        self._open_seen(files.read_table(folder / "seen.arrow", files.SEEN), segments)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._rows

    def profile(self, user_id: str) -> np.ndarray | None:
        """float32 (d,) of unit length, or None."""
        row = self._rows.get(user_id)
        return None if row is None else np.asarray(self._profiles[row], np.float32)

    def interactions(self, user_id: str) -> int:
        """Positive train interactions; 0 without a profile."""
        row = self._rows.get(user_id)
        return 0 if row is None else int(self._interactions[row])

    def vectors(self, user_id: str) -> tuple[np.ndarray, np.ndarray]:
        """What the profile is made of, most recent first: float32 (l, d), and float64 (l,), times in days since 1970."""
        own = self._own(user_id)
        times = [self._past["at"][row] for row in range(own.start, own.stop)]
        days = [(at - datetime(1970, 1, 1)).total_seconds() / DAY_S for at in times]
        return np.asarray(self._vectors[own], np.float32), np.array(days, np.float64)

    def past(self, user_id: str) -> list[tuple[str, str, datetime]]:
        """(catalogue, item_id, time) of the same interactions."""
        own = self._own(user_id)
        return [
            (self._past["catalog"][row], self._past["item_id"][row], self._past["at"][row])
            for row in range(own.start, own.stop)
        ]

    def has_seen(self, user_id: str) -> bool:
        """Whether the user has any train interaction, positive or not, with an item that is still there or not."""
        return user_id in self._seen_of

    def seen(self, user_id: str) -> np.ndarray:
        """Rows, int64, of the items that the user has interacted with in train."""
        start, stop = self._seen_of.get(user_id, (0, 0))
        return self._seen[start:stop]

    def starting_with(self, prefix: str, limit: int) -> list[str]:
        """The first ids with a profile that begin with `prefix`, in alphabetical order."""
        first = bisect_left(self.ids, prefix.encode(errors="surrogatepass"), key=lambda name: name.encode())
        found = self.ids[first : first + max(limit, 0)]
        return [user_id for user_id in found if user_id.startswith(prefix)]

    def _own(self, user_id: str) -> slice:
        row = self._rows.get(user_id)
        return slice(0, 0) if row is None else slice(int(self._offsets[row]), int(self._offsets[row + 1]))

    def _open_seen(self, seen: pa.Table, segments: Sequence[Segment]) -> None:
        rows = np.full(seen.num_rows, -1, np.int64)
        item_ids = seen.column("item_id").combine_chunks()
        of_catalog, catalogs = _coded(seen.column("catalog"))
        for segment in segments:
            if segment.catalog not in catalogs:
                continue
            own = np.flatnonzero(of_catalog == catalogs.index(segment.catalog))
            found = pc.index_in(item_ids.take(files.from_int64(own)), value_set=segment.items.column("item_id"))
            local = np.where(files.to_int64(found.is_valid()), files.to_int64(found), -1)
            alive = local >= 0
            alive[alive] = ~segment.dead[local[alive]]
            rows[own[alive]] = local[alive] + segment.first
        of_user, user_ids = _coded(seen.column("user_id"))
        bounds = np.searchsorted(of_user[rows >= 0], np.arange(len(user_ids) + 1))
        # A user whose items are all gone has an empty range, and is still no stranger.
        self._seen_of = {user_id: (int(bounds[code]), int(bounds[code + 1])) for code, user_id in enumerate(user_ids)}
        self._seen = rows[rows >= 0]


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A column as numbers (int64) of its distinct values, and these in the order of their first row."""
    chunks = column.dictionary_encode().unify_dictionaries().chunks
    codes = [files.to_int64(chunk.indices) for chunk in chunks]
    return np.concatenate([np.empty(0, np.int64), *codes]), chunks[0].dictionary.to_pylist() if chunks else []
