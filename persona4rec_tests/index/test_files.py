"""Publication: atomic, checksummed, pruned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from persona4rec_pipeline.index import IndexCorrupt, IndexMissing, PersonaIndex, files
from persona4rec_tests.index.builders import ENCODER, Shop, axis, two_catalogues

BOOKS, FILMS = "shards/catalog=books/segment=000001", "shards/catalog=films/segment=000001"


def contents() -> files.Contents:
    return files.Contents(
        encoder=files.EncoderReference(fingerprint=ENCODER),
        dimension=1,
        recency_decay=0.9,
        half_life_days=None,
        max_history=10,
        catalogs={},
        users=0,
        history=0,
        seen=0,
        blends=None,
    )


def publish_text(index_path: Path, text: str, keep: int = 5) -> files.Publication:
    def write(folder: Path, current: files.Published | None) -> files.Contents:
        (folder / "text").write_text(text)
        return contents()

    return files.publish(index_path, write, keep)


def current_text(index_path: Path) -> str:
    return (files.current_generation(index_path) / "text").read_text()


def test_generations_are_numbered_upwards_and_the_newest_is_current(tmp_path):
    assert [publish_text(tmp_path, text).manifest.generation for text in "abc"] == [1, 2, 3]
    assert (tmp_path / "current").readlink() == Path("generations/000003")
    assert current_text(tmp_path) == "c"


def test_equal_content_publishes_nothing(tmp_path):
    first = publish_text(tmp_path, "a")
    again = publish_text(tmp_path, "a")
    assert (first.published, again.published) == (True, False)
    assert again.manifest == first.manifest
    assert files.generation_numbers(tmp_path) == [1]


def test_equal_content_is_published_again_when_the_current_generation_is_damaged(tmp_path):
    first = publish_text(tmp_path, "a")
    (first.path / "text").write_text("b")
    assert publish_text(tmp_path, "a").published
    assert current_text(tmp_path) == "a"


def test_a_failure_while_writing_leaves_the_old_generation_current_and_no_rubbish(tmp_path):
    publish_text(tmp_path, "a")

    def write(folder: Path, current: files.Published | None) -> files.Contents:
        (folder / "text").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        files.publish(tmp_path, write, 5)
    assert current_text(tmp_path) == "a"
    assert [path.name for path in (tmp_path / "generations").iterdir()] == ["000001"]


def test_a_process_killed_before_the_switch_leaves_the_old_generation_current(tmp_path):
    publish_text(tmp_path, "a")
    program = (
        "import os, sys; from pathlib import Path\n"
        "from persona4rec_pipeline.index import files\n"
        "from persona4rec_tests.index.test_files import publish_text\n"
        "setattr(files, sys.argv[2], lambda *_: os.kill(os.getpid(), 9))\n"
        "publish_text(Path(sys.argv[1]), 'b')\n"
    )
    for number, moment in enumerate(("_checksums", "_sync_tree", "_switch"), start=2):
        killed = subprocess.run([sys.executable, "-c", program, str(tmp_path), moment], cwd=Path.cwd())
        assert killed.returncode == -9
        assert current_text(tmp_path) == "a"
        # The lock went with the process, its rubbish is swept away, and the number is not used twice.
        assert publish_text(tmp_path, f"after {moment}").manifest.generation == number + (moment == "_switch")
        files.make_current(tmp_path, 1)
    assert not list((tmp_path / "generations").glob(".*"))


def test_only_the_newest_generations_are_kept(tmp_path):
    for text in "abcde":
        publish_text(tmp_path, text, keep=2)
    assert files.generation_numbers(tmp_path) == [4, 5]


def test_the_current_generation_is_never_pruned(tmp_path):
    for text in "abc":
        publish_text(tmp_path, text)
    files.make_current(tmp_path, 1)
    files._prune(tmp_path, keep=1)
    assert files.generation_numbers(tmp_path) == [1, 3]


def test_rolling_back_makes_an_old_generation_current_and_refuses_one_that_is_gone(tmp_path):
    publish_text(tmp_path, "a")
    publish_text(tmp_path, "b")
    files.make_current(tmp_path, 1)
    assert current_text(tmp_path) == "a"
    with pytest.raises(IndexMissing, match=r"there are: \[1, 2\]"):
        files.make_current(tmp_path, 9)


def test_equal_tables_give_equal_bytes_however_the_rows_arrived(tmp_path):
    rows, counts = [f"user {number}" for number in range(1000)], list(range(1000))
    for name, step in (("one", 1000), ("many", 7)):
        batches = [
            pa.record_batch({"user_id": rows[i : i + step], "interactions": counts[i : i + step]}, files.USERS)
            for i in range(0, 1000, step)
        ]
        assert files.write_table(tmp_path / name, batches, files.USERS) == 1000
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "profiles.npy",
        "seen.arrow",
        "users.arrow",
        "histories.arrow",
        "history_offsets.npy",
        "history_vectors.npy",
        f"{BOOKS}/vectors.npy",
        f"{BOOKS}/codes.npy",
        f"{BOOKS}/scales.npy",
        f"{BOOKS}/errors.npy",
        f"{BOOKS}/item_vectors.npy",
        f"{BOOKS}/popularity.npy",
        f"{BOOKS}/dead.npy",
        f"{BOOKS}/offsets.npy",
        f"{BOOKS}/polarity.npy",
        f"{FILMS}/items.arrow",
        f"{FILMS}/personas.arrow",
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, name, damage):
    generation = two_catalogues(tmp_path).publish().path
    path = generation / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    with pytest.raises(IndexCorrupt) as refusal:
        PersonaIndex.open(tmp_path / "index")
    assert name in str(refusal.value)
    assert "materialise the asset persona_index" in str(refusal.value)


def test_a_cut_file_is_refused_even_without_checksums(tmp_path):
    path = two_catalogues(tmp_path).publish().path / f"{BOOKS}/vectors.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IndexCorrupt, match=r"vectors\.npy"):
        PersonaIndex.open(tmp_path / "index", verify=False)


def test_a_pickle_in_the_place_of_an_array_is_not_loaded(tmp_path):
    path = two_catalogues(tmp_path).publish().path / f"{BOOKS}/vectors.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(IndexCorrupt, match=r"vectors\.npy"):
        PersonaIndex.open(tmp_path / "index", verify=False)


def test_a_missing_index_says_how_to_make_one(tmp_path):
    with pytest.raises(IndexMissing, match="materialise the asset persona_index"):
        PersonaIndex.open(tmp_path)


def test_a_manifest_of_another_format_is_refused(tmp_path):
    shop = two_catalogues(tmp_path)
    path = shop.publish().path / "manifest.json"
    path.write_text(path.read_text().replace(f'"format_version": {files.FORMAT_VERSION}', '"format_version": 99'))
    with pytest.raises(IndexCorrupt, match="format 99"):
        PersonaIndex.open(tmp_path / "index")
    # What another version published is no obstacle to publishing anew.
    assert shop.publish().generation == 2


def test_the_manifest_counts_what_is_there(tmp_path):
    manifest = two_catalogues(tmp_path).publish().manifest
    assert {name: (c.items, c.personas) for name, c in manifest.catalogs.items()} == {"books": (5, 8), "films": (2, 2)}
    assert (manifest.users, manifest.seen) == (2, 4)
    assert manifest.encoder == files.EncoderReference(fingerprint=ENCODER, path="/models/one")
    assert len(manifest.files) == 2 * 11 + 6


def test_a_catalogue_named_like_a_path_stays_inside_its_folder(tmp_path):
    shop = Shop(tmp_path).item("a", (axis(0), "appreciative"), catalog="../up/and away")
    path = shop.publish().path
    assert [folder.parents[1].name for folder in path.glob("shards/*/*/items.arrow")] == [
        "catalog=..%2Fup%2Fand%20away"
    ]
    assert PersonaIndex.open(shop.index_path).catalogs == ("../up/and away",)
