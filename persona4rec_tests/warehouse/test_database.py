"""Locking, transactions and content versions, with real processes where processes matter."""

import subprocess
import sys
import threading

import duckdb
import pandas as pd
import pytest

from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import WarehouseBusy, open_ledger_database, open_warehouse


def splits(catalog: str, *review_ids: str) -> pd.DataFrame:
    return pd.DataFrame({"review_id": review_ids, "catalog": catalog, "split": "train", "is_target": False})


@pytest.fixture
def warehouse(tmp_path):
    return open_warehouse(load_settings({}, home=tmp_path, warehouse={"lock_timeout_s": 20}))


def test_every_table_and_column_of_the_design_is_there(warehouse):
    tables = {name for (name,) in warehouse.rows("SELECT table_name FROM information_schema.tables")}
    assert {"items", "reviews", "splits", "review_aspects", "item_summaries", "personas", "alignment_pairs"} <= tables


def test_replacing_one_catalogue_leaves_the_others_alone(warehouse):
    warehouse.replace("splits", splits("a", "1", "2"), "a")
    warehouse.replace("splits", splits("b", "3"), "b")
    warehouse.replace("splits", splits("a", "4"), "a")
    assert warehouse.rows("SELECT catalog, review_id FROM splits ORDER BY 1, 2") == [("a", "4"), ("b", "3")]


def test_a_failed_replacement_leaves_the_old_rows(warehouse):
    warehouse.replace("splits", splits("a", "1"), "a")
    bad = splits("a", "2", "3").assign(split=["train", "nonsense"])
    with pytest.raises(duckdb.ConstraintException):
        warehouse.replace("splits", bad, "a")
    assert warehouse.rows("SELECT review_id FROM splits") == [("1",)]


def test_columns_are_matched_by_name(warehouse):
    rows = splits("a", "1")[["is_target", "split", "catalog", "review_id"]]
    warehouse.replace("splits", rows, "a")
    assert warehouse.rows("SELECT review_id, split FROM splits") == [("1", "train")]


def test_the_content_version_depends_on_the_rows_and_not_on_their_order(warehouse):
    warehouse.replace("splits", splits("a", "1", "2"), "a")
    version = warehouse.content_version("splits", "a")
    warehouse.replace("splits", splits("a", "2", "1"), "a")
    assert warehouse.content_version("splits", "a") == version
    warehouse.replace("splits", splits("a", "1", "3"), "a")
    assert warehouse.content_version("splits", "a") != version


def test_a_table_of_an_earlier_declaration_is_replaced_once(tmp_path):
    path = open_warehouse(load_settings({}, home=tmp_path)).path
    path.parent.mkdir(parents=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE candidates (split VARCHAR, user_id VARCHAR, rank INTEGER, item_id VARCHAR, "
            "score DOUBLE, generator VARCHAR, PRIMARY KEY (split, user_id, rank))"
        )
        connection.execute("INSERT INTO candidates VALUES ('test', 'ann', 1, 'books/dune', 1.0, 'ease')")
    rows = pd.DataFrame({
        "generator": ["ease", "als"], "split": "test", "user_id": "ann", "rank": 1, "item_id": "books/dune",
        "score": 1.0, "is_filled": False,
    })  # fmt: skip
    for _ in range(2):
        warehouse = open_warehouse(load_settings({}, home=tmp_path))
        warehouse.replace("candidates", rows)
        assert warehouse.rows("SELECT generator, is_filled FROM candidates ORDER BY 1") == [
            ("als", False),
            ("ease", False),
        ]
        with warehouse.write():
            pass


def test_a_reader_of_an_earlier_versions_file_finds_the_tables_and_columns_that_came_since(tmp_path):
    path = open_warehouse(load_settings({}, home=tmp_path)).path
    path.parent.mkdir(parents=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE catalogs (catalog VARCHAR PRIMARY KEY)")
    warehouse = open_warehouse(load_settings({}, home=tmp_path))
    assert warehouse.rows("SELECT count(*) FROM item_vectors") == [(0,)]
    assert warehouse.rows("SELECT arrival FROM catalogs") == []


def test_a_reader_cannot_write(warehouse):
    with warehouse.read() as connection, pytest.raises(duckdb.InvalidInputException):
        connection.execute("DELETE FROM splits")


def test_writers_of_several_processes_wait_for_each_other_and_lose_nothing(warehouse, tmp_path):
    code = (
        "import sys, pandas as pd\n"
        "from persona4rec_pipeline.settings import load_settings\n"
        "from persona4rec_pipeline.warehouse import open_warehouse\n"
        "w = open_warehouse(load_settings({}, home=sys.argv[1]))\n"
        "for n in range(10):\n"
        "    with w.write() as c:\n"
        "        c.execute(\"INSERT INTO splits VALUES (?, ?, 'train', FALSE)\", [sys.argv[2], str(n)])\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "abcd"]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0, 0]
    assert warehouse.rows("SELECT count(*) FROM splits") == [(40,)]


def test_a_killed_writer_leaves_no_lock_and_no_half_written_rows(warehouse, tmp_path):
    code = (
        "import sys, time\n"
        "from persona4rec_pipeline.settings import load_settings\n"
        "from persona4rec_pipeline.warehouse import open_warehouse\n"
        "with open_warehouse(load_settings({}, home=sys.argv[1])).write() as c:\n"
        "    c.execute(\"INSERT INTO splits VALUES ('a', '1', 'train', FALSE)\")\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    process.kill()
    process.wait()
    assert warehouse.rows("SELECT count(*) FROM splits") == [(0,)]


def test_waiting_ends_with_an_error_that_names_the_holder(tmp_path):
    impatient = open_warehouse(load_settings({}, home=tmp_path, warehouse={"lock_timeout_s": 0.2}))
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with impatient.write():
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)
    try:
        with pytest.raises(WarehouseBusy, match="process"):
            impatient.rows("SELECT 1")
    finally:
        leave.set()
        holder.join()


def test_the_ledger_is_a_file_of_its_own(tmp_path):
    settings = load_settings({}, home=tmp_path)
    assert open_ledger_database(settings).rows("SELECT count(*) FROM generations") == [(0,)]
    assert settings.ledger_path != settings.warehouse_path
