"""The index as Parquet: everything that is alive, with its vectors."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from persona4rec_pipeline.index import PersonaIndex, change_index
from persona4rec_pipeline.index.export import export_index
from persona4rec_tests.index.builders import axis, two_catalogues


def test_the_exported_vectors_give_the_scores_of_the_index(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    change_index(shop.index_path, removals=[("books", "odd")])
    index = PersonaIndex.open(shop.index_path)
    assert export_index(index, tmp_path / "out") == {"personas.parquet": 9, "items.parquet": 6, "users.parquet": 2}
    personas = pq.read_table(tmp_path / "out" / "personas.parquet")
    vectors = np.stack(personas.column("vector").to_numpy())
    assert vectors.dtype == np.float32 and personas.column("row").to_pylist() == list(range(9))
    favourable = np.array([polarity != "critical" for polarity in personas.column("polarity").to_pylist()])
    cosines = np.where(favourable, vectors @ np.array(axis(0), np.float32), -1)
    best = personas.slice(int(np.argmax(cosines)), 1).to_pylist()[0]
    found = index.search(np.array(axis(0), np.float32), 1)[0]
    assert (best["catalog"], best["item_id"], best["persona_id"]) == (found.catalog, found.item_id, found.persona_id)
    users = pq.read_table(tmp_path / "out" / "users.parquet")
    profile = users.column("vector").to_pylist()[users.column("user_id").to_pylist().index("ann")]
    np.testing.assert_array_equal(np.array(profile, np.float32), index.profile_of("ann"))
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert "odd" not in {item["item_id"] for item in items}
    assert items[0]["title"] == "Title of dune" and len(items[0]["vector"]) == index.dimension
