"""Files for spreadsheets: complete, in order, and without a cell that runs."""

from __future__ import annotations

import csv

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from persona4rec_pipeline.cli import app
from persona4rec_pipeline.exports import COLUMNS, export_personas, neutral_cell
from persona4rec_tests.index.builders import warehouse

HOSTILE = '=HYPERLINK("http://evil.example","click")'


def shop(home):
    database = warehouse(home)
    frames = {
        "item_summaries": pd.DataFrame(
            [("books", "b1", HOSTILE, "-", "extractive"), ("films", "f1", "Alien", "-", "extractive")],
            columns=["catalog", "item_id", "title", "summary", "source"],
        ),
        "personas": pd.DataFrame(
            [
                ("books", "b1", "p1", "+SUM(1+1)", "@cmd", "-2+3", "critical", ["r1", "r2"], ["=1+1", "Fine."], 0.5, "llm"),
                ("books", "b1", "p2", "Sea reader", "They, “so”,\nread.", "Why", "mixed", [], [], None, "summary"),
                ("films", "f1", "p1", "Horror fan", "They shiver.", "Why", "appreciative", ["r3"], ["Brr."], 1.0, "extractive"),
            ],
            columns=["catalog", "item_id", "persona_id", "name", "description", "preference_rationale", "polarity",
                     "evidence_review_ids", "quotes", "support", "source"],
        ),
    }  # fmt: skip
    for table, frame in frames.items():
        for catalog, rows in frame.groupby("catalog"):
            database.replace(table, rows, str(catalog))
    return database


def test_a_csv_file_holds_every_persona_and_no_formula(tmp_path):
    path = tmp_path / "personas.csv"
    assert export_personas(shop(tmp_path), path) == 3
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS.names
    assert [(row["catalog"], row["item_id"], row["persona_id"]) for row in rows] == [
        ("books", "b1", "p1"), ("books", "b1", "p2"), ("films", "f1", "p1"),
    ]  # fmt: skip
    first = rows[0]
    assert first["title"] == f"'{HOSTILE}" and first["name"] == "'+SUM(1+1)" and first["description"] == "'@cmd"
    assert first["preference_rationale"] == "'-2+3" and first["quotes"] == "'=1+1 | Fine."
    assert (first["support"], first["evidence_reviews"]) == ("0.5", "2")
    assert rows[1]["description"] == "They, “so”,\nread." and rows[1]["support"] == ""


def test_a_parquet_file_keeps_types_and_texts_as_they_are(tmp_path):
    path = tmp_path / "personas.parquet"
    assert export_personas(shop(tmp_path), path, "books") == 2
    table = pq.read_table(path)
    assert table.schema.equals(COLUMNS) and table["name"].to_pylist() == ["+SUM(1+1)", "Sea reader"]


def test_another_suffix_and_a_catalogue_without_personas_are_errors_and_leave_no_file(tmp_path):
    database = shop(tmp_path)
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        export_personas(database, tmp_path / "personas.xlsx")
    with pytest.raises(ValueError, match="'hotels' has no personas"):
        export_personas(database, tmp_path / "personas.csv", "hotels")
    assert not list(tmp_path.glob("*personas*"))


@pytest.mark.parametrize(
    "cell",
    [
        "=1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        "\n1",
        "  =1",
        '"=1',
        "'=1",
        "＝1",
        "＋1",
        "－1",
        "＠x",
        "\ufeff=1",
        "|cmd",
        "%0A",
    ],
)
def test_a_cell_that_could_run_is_neutralised(cell):
    assert neutral_cell(cell) == f"'{cell}"


@given(st.text(max_size=20))
def test_a_neutralised_cell_never_begins_like_a_formula(text):
    assert not str(neutral_cell(text)).lstrip(' "').startswith(tuple("=+-@\t\r\n"))


def test_ordinary_cells_stay_as_they_are():
    for cell in ("Sea reader", "3-4 people", "a=b", "", None, 0.5, 3, "“Fine.”"):
        assert neutral_cell(cell) == cell


def test_the_command_writes_the_file_and_says_how_many(tmp_path, monkeypatch):
    shop(tmp_path)
    monkeypatch.setenv("PERSONA4REC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["export-personas", "out.csv", "--catalog", "films"])
    assert result.exit_code == 0 and "1 personas are in out.csv" in result.output
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8-sig").splitlines()) == 2
