"""Item metadata of every format becomes title, description, categories and attributes, and leaks no ratings."""

import json

import pytest

from persona4rec_tests.reviews.builders import Workshop, json_lines, review, write
from persona4rec_tests.reviews.test_sources import AMAZON_2014, AMAZON_2023, GENERIC, GOODREADS, YELP

ITEM_FORMATS = {
    "amazon_2023": (
        AMAZON_2023,
        {
            "parent_asin": "B1",
            "title": "Lamp",
            "description": ["Warm.", "Bright."],
            "features": ["LED"],
            "categories": ["Home", "Lamps"],
            "store": "Lumen",
            "price": 9.5,
            "average_rating": 4.6,
            "rating_number": 10,
            "main_category": None,
            "images": [{"large": "https://x/y.jpg"}],
            "details": {"Material": "Brass", "Best Sellers Rank": {"Lamps": 3}, "Customer Reviews": "4.6"},
        },
        (
            "B1",
            "Lamp",
            "Warm.\nBright.\nLED",
            ["Home", "Lamps"],
            {"store": "Lumen", "price": "9.5", "Material": "Brass"},
        ),
    ),
    "amazon_2014": (
        AMAZON_2014,
        "{'asin': 'B1', 'title': \"Player's Lamp\", 'categories': [['Home', 'Lamps'], ['Home', 'LED']], "
        "'description': 'Warm.', 'brand': 'Lumen', 'salesRank': {'Home': 7}, 'related': {'also_bought': ['B2']}}",
        ("B1", "Player's Lamp", "Warm.", ["Home", "Lamps", "LED"], {"brand": "Lumen"}),
    ),
    "amazon_2018": (
        AMAZON_2014,
        {
            "asin": "B1",
            "title": "Lamp",
            "category": ["Home"],
            "description": ["Warm."],
            "brand": "",
            "rank": "3 in Home",
        },
        ("B1", "Lamp", "Warm.", ["Home"], None),
    ),
    "yelp": (
        YELP,
        {
            "business_id": "B1",
            "name": "Chez Ann",
            "city": "Lyon",
            "stars": 4.5,
            "review_count": 12,
            "categories": "French, Wine Bars",
            "attributes": {
                "WiFi": "u'free'",
                "TakeOut": "True",
                "Ambience": "{'romantic': True, 'loud': False}",
                "Alcohol": "None",
            },
        },
        (
            "B1",
            "Chez Ann",
            None,
            ["French", "Wine Bars"],
            {"city": "Lyon", "WiFi": "free", "TakeOut": "true", "Ambience": "romantic"},
        ),
    ),
    "goodreads": (
        GOODREADS,
        {
            "book_id": "B1",
            "title": "Emma",
            "description": "A matchmaker.",
            "popular_shelves": [
                {"count": "9", "name": name} for name in ("to-read", "classics", "own", "historical-fiction")
            ],
            "publisher": "Murray",
            "average_rating": "4.0",
            "ratings_count": "3",
        },
        ("B1", "Emma", "A matchmaker.", ["classics", "historical fiction"], {"publisher": "Murray"}),
    ),
    "generic": (
        GENERIC,
        {
            "item_id": "B1",
            "title": "Emma",
            "description": "A matchmaker.",
            "categories": "['Classics', 'Romance']",
            "author": {"name": "Jane Austen", "avatar": "https://x"},
            "n_reviews": 7,
            "average_rating": 4.1,
            "link": "https://x/y",
        },
        ("B1", "Emma", "A matchmaker.", ["Classics", "Romance"], {"author": "Jane Austen"}),
    ),
}


@pytest.mark.parametrize("name", ITEM_FORMATS)
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_every_item_format_is_read_without_its_ratings_and_ranks(workshop, name, suffix):
    row, metadata, expected = ITEM_FORMATS[name]
    path = write(workshop.sources / f"items{suffix}", json_lines([metadata]))
    counts = workshop.ingest_both([row], path)
    assert (counts.read, counts.rejected, counts.kept) == (1, 0, 1)
    [(item_id, title, description, categories, attributes)] = workshop.items(
        "item_id", "title", "description", "categories", "attributes"
    )
    assert (item_id, title, description, categories, attributes and json.loads(attributes)) == expected


def test_generic_items_may_come_from_csv(workshop):
    path = write(workshop.sources / "items.csv", 'id,title,categories,n\nB1,Emma,"a|b",3\n7,"Dune, part 1","c, d",\n')
    workshop.ingest_both([GENERIC, review(item=7)], path, column_mapping={"items.item_id": "id"})
    assert workshop.items("item_id", "title", "categories", "attributes") == [
        ("7", "Dune, part 1", ["c", "d"], None),
        ("B1", "Emma", ["a", "b"], '{"n": "3"}'),
    ]


def test_bad_item_rows_are_kept_with_their_line_and_the_first_of_a_repeated_item_wins(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.9})
    items = [
        {"item_id": "dune", "title": "Dune"},
        {"title": "Nameless"},
        "{broken",
        "[1]",
        {"item_id": " dune\n", "title": "Dune again"},
    ]
    counts = workshop.ingest_both([review()], items)
    assert (counts.read, counts.rejected, counts.duplicates, counts.kept) == (5, 3, 1, 1)
    assert workshop.items("title") == ["Dune"]
    assert workshop.rejected("asset", "line", "reason") == [
        ("items", 2, "no item"),
        ("items", 3, "not valid JSON"),
        ("items", 4, "not a JSON object"),
    ]


def test_broken_characters_in_metadata_are_replaced_and_not_fatal(workshop):
    workshop.ingest_both([review()], ['{"item_id": "dune", "title": "D\\ud800une\\u0000", "categories": ["\\udfff"]}'])
    assert workshop.items("title", "categories") == [("D?une", ["?"])]
