"""Every format is read, recognised and refused as it should be, with the right line for every bad row."""

import json
from datetime import datetime

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from persona4rec_pipeline.reviews.files import SourceError, columns_of, literal_as_json, parse_literal
from persona4rec_pipeline.reviews.sources import FORMATS, detect_format
from persona4rec_tests.reviews.builders import Workshop, json_lines, review, write

AMAZON_2023 = {
    "rating": 4.0,
    "title": "Good",
    "text": "Warm sound.",
    "asin": "B1-RED",
    "parent_asin": "B1",
    "user_id": "U1",
    "timestamp": 1588687728923,
    "helpful_vote": 0,
}
AMAZON_2014 = {
    "reviewerID": "U1",
    "asin": "B1",
    "overall": 5.0,
    "reviewText": "Warm sound.",
    "summary": "Good",
    "unixReviewTime": 1393545600,
    "helpful": [0, 0],
}
YELP = {
    "review_id": "r",
    "user_id": "U1",
    "business_id": "B1",
    "stars": 3.0,
    "text": "Fine.",
    "date": "2018-07-07 22:09:11",
}
GOODREADS = {
    "user_id": "U1",
    "book_id": "B1",
    "rating": 0,
    "review_text": "Slow.",
    "date_added": "Sun Jul 30 07:44:10 -0700 2017",
}
GENERIC = review("U1", "B1", rating=2, text="Meh.", title="Hm")

ONE_OF_EACH = {
    "amazon_2023": (
        AMAZON_2023,
        ("U1", "B1", 4.0, True, "Good", "Warm sound.", datetime(2020, 5, 5, 14, 8, 48, 923000)),
    ),
    "amazon_2014": (AMAZON_2014, ("U1", "B1", 5.0, True, "Good", "Warm sound.", datetime(2014, 2, 28))),
    "yelp": (YELP, ("U1", "B1", 3.0, False, None, "Fine.", datetime(2018, 7, 7, 22, 9, 11))),
    "goodreads": (GOODREADS, ("U1", "B1", None, True, None, "Slow.", datetime(2017, 7, 30, 14, 44, 10))),
    "generic": (GENERIC, ("U1", "B1", 2.0, False, "Hm", "Meh.", datetime(2020, 1, 1, 12))),
}
COLUMNS = ("user_id", "item_id", "rating", "is_positive", "title", "text", "reviewed_at")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_every_review_format_is_recognised_and_read(workshop, name, suffix):
    row, expected = ONE_OF_EACH[name]
    path = write(workshop.sources / f"reviews{suffix}", json_lines([row]))
    assert detect_format(str(path)) == name
    workshop.ingest(path)
    assert workshop.reviews(*COLUMNS) == [expected]


@pytest.mark.parametrize("name", FORMATS)
def test_a_stated_format_is_not_guessed(workshop, name):
    row, expected = ONE_OF_EACH[name]
    workshop.ingest([row], source_format=name)
    assert workshop.reviews(*COLUMNS) == [expected]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_generic_tables_are_read_with_their_columns_mapped(workshop, suffix):
    path = workshop.sources / f"table{suffix}"
    path.parent.mkdir(parents=True)
    frame = pd.DataFrame(
        {
            "who": ["U1", "U2"],
            "what": ["B1", "B,2"],
            "stars": [2.5, None],
            "up": [None, True],
            "comment": ['He said "no",\nand left', "ünïcode"],
            "when": [1577880000, 1577880060],
        }
    )
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    mapping = {
        "user_id": "who",
        "item_id": "what",
        "rating": "stars",
        "liked": "up",
        "text": "comment",
        "timestamp": "when",
    }
    workshop.ingest(path, column_mapping=mapping)
    assert workshop.reviews(*COLUMNS) == [
        ("U1", "B1", 2.5, False, None, 'He said "no",\nand left', datetime(2020, 1, 1, 12)),
        ("U2", "B,2", None, True, None, "ünïcode", datetime(2020, 1, 1, 12, 1)),
    ]


def test_parquet_times_with_a_zone_become_utc(workshop):
    path = workshop.sources / "r.parquet"
    path.parent.mkdir(parents=True)
    moments = pd.to_datetime(["2020-07-01T14:00:00"]).tz_localize("Europe/Paris")
    pd.DataFrame({"user_id": ["a"], "item_id": ["b"], "text": ["c"], "timestamp": moments}).to_parquet(path)
    workshop.ingest(path)
    assert workshop.reviews("reviewed_at") == [datetime(2020, 7, 1, 12)]


def test_a_glob_reads_the_files_that_match_and_no_other(workshop):
    for number in range(3):
        write(workshop.sources / f"part-{number}.jsonl.gz", json_lines([review(f"u{number}")]))
    write(workshop.sources / "other.jsonl", json_lines([review("other")]))
    assert workshop.ingest(workshop.sources / "part-*.jsonl.gz").kept == 3
    assert workshop.reviews("user_id") == ["u0", "u1", "u2"]


def test_a_folder_is_read_with_its_subfolders_but_not_what_is_no_data(workshop):
    write(workshop.sources / "2020" / "a.jsonl", json_lines([review("a")]))
    write(workshop.sources / "2021" / "b.csv.gz", "user_id,item_id,text,timestamp\nb,dune,fine,1577880000\n")
    write(workshop.sources / "README.md", "not data")
    write(workshop.sources / ".hidden.jsonl", "not data")
    workshop.ingest(workshop.sources)
    assert workshop.reviews("user_id") == ["a", "b"]


def test_gzip_is_recognised_by_content_and_not_by_name(workshop):
    gzipped = write(workshop.sources / "r.jsonl.gz", json_lines([review()]))
    path = gzipped.rename(workshop.sources / "r.txt")
    assert workshop.ingest(path).kept == 1


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        (0, datetime(1970, 1, 1)),
        (-5364662400, datetime(1800, 1, 1)),
        (1393545600, datetime(2014, 2, 28)),
        ("1393545600", datetime(2014, 2, 28)),
        (1393545600.25, datetime(2014, 2, 28, 0, 0, 0, 250000)),
        (1588687728923, datetime(2020, 5, 5, 14, 8, 48, 923000)),
        (1588687728923456, datetime(2020, 5, 5, 14, 8, 48, 923456)),
        ("2020-01-01", datetime(2020, 1, 1)),
        ("2020-01-01 10:20", datetime(2020, 1, 1, 10, 20)),
        ("2020-01-01T10:20:30", datetime(2020, 1, 1, 10, 20, 30)),
        ("2020-01-01T10:20:30.123456789Z", datetime(2020, 1, 1, 10, 20, 30, 123456)),
        ("2020-01-01T00:00:00+02:00", datetime(2019, 12, 31, 22)),
        ("2020-01-01 00:00:00-0330", datetime(2020, 1, 1, 3, 30)),
        ("2020-01-01 00:00:00+05", datetime(2019, 12, 31, 19)),
        ("2020-01-01 10:00:00 UTC", datetime(2020, 1, 1, 10)),
        ("Sun Jul 30 07:44:10 -0700 2017", datetime(2017, 7, 30, 14, 44, 10)),
        (" 2020-01-01 ", datetime(2020, 1, 1)),
    ],
)
def test_times_become_utc(workshop, given_time, expected):
    workshop.ingest([review(timestamp=given_time)])
    assert workshop.reviews("reviewed_at") == [expected]


@pytest.mark.parametrize(
    "given_time",
    [
        "yesterday",
        "2020-02-30",
        "2020-01-01T25:00:00",
        "2020-01-01T10:00:00+25:00",
        "0000-01-01",
        "01/02/2020",
        "Sun Foo 30 07:44:10 -0700 2017",
        1e30,
        "1e400",
        True,
        [2020],
    ],
)
def test_times_that_cannot_be_read_are_rejected_and_not_guessed(workshop, given_time):
    workshop.settings = workshop.settings.model_copy(
        update={"reviews": workshop.settings.reviews.model_copy(update={"max_reject_fraction": 0.5})}
    )
    workshop.ingest([review(), review("bob", timestamp=given_time)])
    assert workshop.rejected("line", "reason") == [(2, "time not understood")]


BAD_ROWS = [
    ('{"user_id": "a", "item_id"', "not valid JSON"),
    ("[1, 2]", "not a JSON object"),
    ("7", "not a JSON object"),
    (review(user=""), "no user"),
    (review(user=None), "no user"),
    (review(item="  "), "no item"),
    (review(rating="five"), "rating is not a number"),
    (review(rating=5.5), "rating outside 0 to 5"),
    (review(rating=-1), "rating outside 0 to 5"),
    (review(rating="inf"), "rating outside 0 to 5"),
    (review(liked="perhaps"), "liked is neither yes nor no"),
    (review(timestamp=None), "no time"),
    (review(timestamp="soon"), "time not understood"),
    (review(text=""), "empty text"),
    (review(text=None), "empty text"),
    (review(text="\u00a0 \u200b\t\n"), "empty text"),
    (review(text="\u0000"), "empty text"),
]


def test_every_bad_row_is_kept_with_its_file_line_and_reason(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.99})
    # A good row and a blank line before each: blank lines are no rows, but they count as lines.
    rows = [part for number, (bad, _) in enumerate(BAD_ROWS) for part in (review(f"u{number}"), "", bad)]
    path = write(workshop.sources / "reviews.jsonl.gz", json_lines(rows))
    counts = workshop.ingest(path)
    assert (counts.read, counts.rejected, counts.kept) == (2 * len(BAD_ROWS), len(BAD_ROWS), len(BAD_ROWS))
    assert workshop.rejected("asset", "file", "line", "reason") == [
        ("reviews", str(path), 3 * number + 3, reason) for number, (_, reason) in enumerate(BAD_ROWS)
    ]
    assert workshop.rejected("row_text")[0] == BAD_ROWS[0][0]


def test_bytes_that_are_no_text_do_not_shift_the_line_of_a_later_row(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.9})
    good = json.dumps(review()).encode()
    lines = [b'{"user_id": "\xff\xfe"}', b"\r", good, b"{\x00}", b'{"a": 1}\x01{"b": 2}', b"a\rb", b"", b"last"]
    path = write(workshop.sources / "reviews.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(lines))
    workshop.ingest(path, source_format="generic")
    assert workshop.rejected("line", "reason") == [
        (1, "not valid UTF-8"),
        (4, "not valid JSON"),
        (5, "not valid JSON"),
        (6, "not valid JSON"),
        (8, "not valid JSON"),
    ]
    assert workshop.reviews("user_id") == ["ann"]


def test_csv_rows_are_numbered_by_the_line_they_start_on(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.9})
    content = (
        "user_id,item_id,text,timestamp\n"
        'a,dune,"two\nlines",1577880000\n'
        "\n"
        "b,dune,one,too,many,1577880000\n"
        'c,dune,"quoted" badly,1577880000\n'
        ",dune,fine,1577880000\n"
        "d,dune,fine,1577880001\n"
    )
    path = write(workshop.sources / "reviews.csv", content)
    workshop.ingest(path)
    assert workshop.rejected("line", "reason") == [
        (5, "not as many fields as the header"),
        (6, "not a valid CSV row"),
        (7, "no user"),
    ]
    assert workshop.reviews("user_id") == ["a", "d"]


def test_a_quote_that_is_never_closed_is_an_error_and_does_not_swallow_the_rest(workshop):
    content = (
        'user_id,item_id,text,timestamp\na,dune,fine,1577880000\nb,dune,"open,1577880000\nc,dune,fine,1577880000\n'
    )
    path = write(workshop.sources / "reviews.csv", content)
    with pytest.raises(SourceError, match=r"reviews\.csv.*line 3.*never closed"):
        workshop.ingest(path)


def test_a_file_cut_short_is_an_error_and_not_a_smaller_source(workshop):
    path = write(workshop.sources / "reviews.jsonl.gz", json_lines(review(f"u{number}") for number in range(2_000)))
    catalog = workshop.catalog(path)
    workshop.ingest(catalog)
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(SourceError, match=r"reviews\.jsonl\.gz cannot be read"):
        workshop.ingest(catalog)
    assert len(workshop.reviews("review_id")) == 2_000


def test_an_amazon_review_without_text_speaks_through_its_title(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.5})
    workshop.ingest([{**AMAZON_2023, "text": " "}, {**AMAZON_2023, "user_id": "U2", "text": "", "title": ""}])
    assert workshop.reviews("user_id", "text") == [("U1", "Good")]
    assert workshop.rejected("line", "reason") == [(2, "empty text")]


def test_a_thumb_outweighs_the_rating_and_a_missing_rating_is_a_setting(tmp_path):
    rows = [
        review("a", rating=1, liked=True),
        review("b", rating=5, liked="false"),
        review("c", rating=4),
        review("d", rating=3.5),
        review("e", rating=None),
        review("f", rating="NaN", liked=""),
    ]
    expected = [("a", 1.0, True), ("b", 5.0, False), ("c", 4.0, True), ("d", 3.5, False)]
    for number, implicit in enumerate((True, False)):
        workshop = Workshop(tmp_path / str(number), reviews={"missing_rating_is_positive": implicit})
        workshop.ingest(rows)
        found = workshop.reviews("user_id", "rating", "is_positive")
        assert found == [*expected, ("e", None, implicit), ("f", None, implicit)]


def test_an_unrecognised_format_names_the_file_what_was_found_and_what_to_do(workshop):
    path = write(workshop.sources / "odd.jsonl", json_lines([{"who": "a", "what": "b"}]))
    with pytest.raises(SourceError) as error:
        workshop.ingest(path)
    assert "odd.jsonl" in str(error.value) and "who, what" in str(error.value)
    assert "State the format" in str(error.value) and "rating=stars" in str(error.value)


def test_a_source_read_as_the_wrong_format_names_the_columns_that_it_lacks(workshop):
    with pytest.raises(SourceError, match=r"read as yelp.*business_id.*Its columns are"):
        workshop.ingest([review()], source_format="yelp")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"ratign": "stars"}, "ratign=stars is not understood"),
        ({"items.rating": "stars"}, "not understood"),
        ({"rating": " "}, "not understood"),
        ({"rating": "starz"}, "column 'starz', mapped to rating, is not there"),
        ({"user_id": "who"}, "column 'who', mapped to user_id, is not there"),
    ],
)
def test_a_misspelt_mapping_is_an_error_and_not_an_empty_column(workshop, mapping, message):
    with pytest.raises(SourceError, match=message):
        workshop.ingest([review()], column_mapping=mapping)


def test_a_mapping_beside_a_format_with_its_own_columns_is_an_error(workshop):
    with pytest.raises(SourceError, match="for generic sources"):
        workshop.ingest([YELP], source_format="yelp", column_mapping={"rating": "stars"})


def test_a_column_that_reviews_and_items_share_may_be_mapped_for_one_of_them(workshop):
    rows = [review(title="Great", headline="Superb")]
    items = [{"item_id": "dune", "title": "wrong", "name": "Dune"}]
    workshop.ingest_both(rows, items, column_mapping={"title": "name"})
    assert (workshop.reviews("title"), workshop.items("title")) == (["Great"], ["Dune"])
    workshop.ingest_both(rows, items, column_mapping={"reviews.title": "headline", "items.title": "name"})
    assert (workshop.reviews("title"), workshop.items("title")) == (["Superb"], ["Dune"])


def test_columns_with_odd_names_can_be_mapped(workshop):
    odd = 'how "good" / it\'s ~ is'
    row = review()
    row[odd] = row.pop("rating")
    workshop.ingest([row], column_mapping={"rating": odd})
    assert workshop.reviews("rating") == [5.0]


def test_a_json_array_is_refused_with_the_way_to_convert_it(workshop):
    path = write(workshop.sources / "reviews.json", json.dumps([review()]))
    with pytest.raises(SourceError, match="jq"):
        workshop.ingest(path)


def test_a_missing_or_empty_source_is_an_error(workshop):
    workshop.sources.mkdir(parents=True)
    for source in ("nothing.jsonl", "*.jsonl", ""):
        with pytest.raises(SourceError):
            workshop.ingest(workshop.sources / source)
    with pytest.raises(SourceError, match="empty"):
        workshop.ingest(write(workshop.sources / "empty.jsonl", ""))
    with pytest.raises(SourceError):
        workshop.ingest(write(workshop.sources / "blank.jsonl.gz", "\n\n"), source_format="generic")


def test_literals_are_parsed_and_never_run():
    assert literal_as_json("{'a': 'b', 'c': [1, None, True]}") == '{"a": "b", "c": [1, null, true]}'
    assert parse_literal("u'free'") == "free"
    for hostile in ("__import__('os').getcwd()", "[].__class__", "{**{}}", "lambda: 1", "{[]: 1}", "'\0'", "(" * 9_000):
        assert parse_literal(hostile) is None and literal_as_json(hostile) is None


line = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8), st.lists).map(
        lambda value: json.dumps(value).encode()
    ),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.text(max_size=12) | st.integers() | st.floats() | st.lists(st.text(max_size=3))
            for name in ("user_id", "item_id", "rating", "liked", "text", "timestamp", "title", "categories", "price")
        },
    ).map(lambda row: json.dumps(row).encode()),
)


GOOD_LINES = {
    ".jsonl": json.dumps(review()).encode(),
    ".jsonl.gz": json.dumps(review()).encode(),
    ".dat": json.dumps(review()).encode(),
    ".csv": b"user_id,item_id,text,timestamp\nann,dune,fine,1577880000",
    ".parquet": b"PAR1",
}


@given(
    lines=st.lists(line, max_size=6),
    suffix=st.sampled_from(sorted(GOOD_LINES)),
    starts_well=st.sampled_from([True, True, True, False]),
    source_format=st.sampled_from(["auto", "generic"]),
)
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_in_a_source_raise_anything_but_a_source_error(
    tmp_path_factory, lines, suffix, starts_well, source_format
):
    workshop = Workshop(tmp_path_factory.mktemp("fuzz"), reviews={"max_reject_fraction": 1.0})
    path = write(workshop.sources / f"fuzz{suffix}", b"\n".join([GOOD_LINES[suffix]] * starts_well + lines))
    try:
        counts = workshop.ingest_both(path, path, source_format=source_format)
    except SourceError as error:
        assert str(error)
        return
    assert counts.kept == counts.read - counts.rejected - counts.duplicates + counts.from_reviews
    assert all(number >= 1 and reason for number, reason in workshop.rejected("line", "reason"))


def test_the_columns_of_a_file_are_those_of_its_first_rows(workshop):
    path = write(workshop.sources / "a.jsonl", json_lines(["broken", {"a": 1}, {"b": None}]))
    assert columns_of(path) == ["a", "b"]
