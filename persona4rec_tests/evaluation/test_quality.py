"""The quality report: figures whose truth is worked out here by hand, a page that escapes, files that are deleted again."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from persona4rec_pipeline.cli import app
from persona4rec_pipeline.evaluation import assets
from persona4rec_pipeline.evaluation.quality import Quality, measure_quality, own_words
from persona4rec_pipeline.evaluation.quality_page import (
    EXPERIMENT,
    delete_reports,
    plain,
    render_page,
    report_quality,
)
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_tests.evaluation.builders import HashEncoder
from persona4rec_tests.index.builders import FIRST_DAY, Shop, axis

HOSTILE = '<img src=x onerror="alert(1)"></style><script>alert(2)</script>{{ 7*7 }}\u202egnp.exe'


class Town(Shop):
    """A shop whose personas and reviews are given in full."""

    def persona(self, item_id: str, name: str, catalog: str = "books", **changes: Any) -> Town:
        number = len(self.rows.get("personas", []))
        row = {
            "catalog": catalog, "item_id": item_id, "persona_id": f"p{number}", "name": name,
            "description": "This reader looks for sea air.", "preference_rationale": "They take to it for the sea.",
            "polarity": "appreciative", "evidence_review_ids": ["r"], "quotes": ["The sea!"], "support": 0.9,
            "language": "en", "source": "extractive", "fallback_reason": None,
        }  # fmt: skip
        self._add("personas", **(row | changes))
        return self

    def ratings(self, item_id: str, *ratings: float | None, split: str = "train", catalog: str = "books") -> Town:
        for rating in ratings:
            self.interaction(f"u{len(self.rows.get('reviews', []))}", item_id, split=split, catalog=catalog)
            self.rows["reviews"][-1] |= {"rating": rating, "is_positive": rating is None or rating >= 4}
        return self

    def judged(self, item_id: str, probabilities: list[float], similar: int, orders: list[list[int]] | None) -> Town:
        """A pair of a new train interaction; `orders` with the same probabilities each, or none recorded."""
        self.interaction("judge-me", item_id)
        options = [f"o{place}" for place in range(len(probabilities))]
        review = self.rows["reviews"][-1]
        self._add(
            "alignment_pairs",
            **{name: review[name] for name in ("catalog", "review_id", "user_id", "item_id", "reviewed_at")},
            persona_id=options[probabilities.index(max(probabilities))],
            probability=max(probabilities),
            option_ids=options,
            option_probabilities=probabilities,
            history_review_ids=[],
            shown_orders=orders,
            order_probabilities=[probabilities for _ in orders] if orders else None,
            similarity_persona_id=options[similar],
            entropy=-sum(p * math.log(p) for p in probabilities if p) / math.log(len(probabilities)),
            source="llm",
        )
        return self

    def store(self) -> Town:
        # This table tells its rows apart by nothing, so it is filled, not compared.
        rejected = pd.DataFrame(self.rows.pop("rejected_personas", []))
        super().store()
        if len(rejected):
            with self.database.write() as connection:
                connection.register("rejected", rejected)
                connection.execute("INSERT INTO rejected_personas BY NAME FROM rejected")
        return self

    def measure(self, catalog: str | None = None, encoder: HashEncoder | None = None, seed: int = 7) -> Quality:
        self.store()
        return measure_quality(self.database, encoder, catalog, Settings(home=self.home), seed)


@pytest.fixture
def town(tmp_path) -> Town:
    """Three items: one praised, one torn, one hated; a fourth without any review, and one of another catalogue."""
    town = Town(tmp_path)
    for item in ("praised", "torn", "hated", "unread"):
        town.item(item)
    town.item("film", catalog="films")
    town.ratings("praised", 5, 5, 4, None).ratings("torn", 5, 3, 1, 2).ratings("hated", 1, 2)
    # What is held out would turn every figure around.
    town.ratings("praised", 1, 1, 1, 1, 1, split="test").ratings("hated", 5, 5, 5, 5, 5, 5, split="valid")
    town.persona("praised", "Sea air lover").persona("praised", "Calm evening reader", support=0.55)
    town.persona("torn", "sea air lover ", source="llm", support=0.95)
    town.persona("torn", "Slow plot critic", polarity="critical", fallback_reason="the name is odd (0.12 < 0.3)")
    town.persona("hated", "Slow plot critic", polarity="critical", support=0.75)
    town.persona("unread", "Any reader", polarity="mixed", source="summary", support=None, quotes=[], language=None)
    town.persona("film", "Sea air lover", catalog="films", source="llm")
    for attempt, number in ((1, 0.12), (2, 0.2)):
        town._add(
            "rejected_personas", catalog="books", item_id="torn", name="Odd", description="Odd.", polarity="mixed",
            support=number, source="llm", attempt=attempt, reason=f"the name is odd ({number} < 0.3)",
        )  # fmt: skip
    return town


def test_acceptance_is_what_was_published_of_what_was_written_and_a_reason_is_one_whatever_it_measured(town):
    acceptance = town.measure("books").acceptance
    assert [(e.source, e.published, e.standing_in, e.rejected) for e in acceptance.by_source] == [
        ("llm", 1, 0, 2), ("extractive", 4, 1, 0), ("summary", 1, 0, 0),
    ]  # fmt: skip
    assert acceptance.by_source[0].accepted == pytest.approx(1 / 3)
    assert [(e.reason, e.attempt, e.personas) for e in acceptance.rejections] == [
        ("the name is odd", 1, 1), ("the name is odd", 2, 1),
    ]  # fmt: skip
    assert acceptance.fallbacks == (("the name is odd", 1),)


def test_support_is_told_by_group_with_what_has_none(town):
    support = town.measure("books").support
    groups = {group.group: group for group in support.groups}
    assert list(groups) == ["all", "appreciative", "mixed", "critical", "llm", "extractive", "summary"]
    # .55, .75, .9, .9, .95
    assert (groups["all"].personas, groups["all"].missing, groups["all"].median) == (6, 1, 0.9)
    assert groups["critical"].mean == pytest.approx((0.9 + 0.75) / 2)
    assert (groups["summary"].missing, groups["summary"].mean) == (1, None)
    assert [(place / 20, count) for place, count in enumerate(support.histogram) if count] == [
        (0.55, 1), (0.75, 1), (0.9, 2), (0.95, 1),
    ]  # fmt: skip
    assert support.below == ((0.5, 0.0), (0.6, 0.2), (0.7, 0.2), (0.8, 0.4), (0.9, 0.4))
    assert support.missing == pytest.approx(1 / 6)


def test_polarity_stands_against_the_train_ratings_of_the_same_items_alone(town):
    polarity = town.measure("books").polarity
    assert polarity.personas == {"appreciative": 3 / 6, "mixed": 1 / 6, "critical": 2 / 6}
    # praised: 3 positive and one without a rating; torn: 1 positive, 1 neutral, 2 negative; hated: 2 negative.
    assert polarity.reviews == {"positive": 4 / 9, "neutral": 1 / 9, "negative": 4 / 9}
    assert (polarity.rated_reviews, polarity.unrated_reviews, polarity.items) == (9, 1, 3)
    # Critical personas 0, 1/2, 1 against negative reviews 0, 1/2, 1; appreciative 1, 1/2, 0 against 1, 1/4, 0.
    assert polarity.critical_with_negative == pytest.approx(1)
    assert polarity.appreciative_with_positive == pytest.approx(0.5 / math.sqrt(0.5 * 13 / 24))
    assert [(band.label, band.items, band.with_critical) for band in polarity.bands] == [
        ("none", 1, 0.0), ("50% and more", 2, 1.0),
    ]  # fmt: skip


def test_what_was_liked_is_positive_whatever_its_rating(tmp_path):
    town = Town(tmp_path).item("a").ratings("a", 3, 3, 1).persona("a", "Sea air lover")
    town.rows["reviews"][0]["is_positive"] = True
    assert town.measure().polarity.reviews == {"positive": 1 / 3, "neutral": 1 / 3, "negative": 1 / 3}


def test_a_correlation_of_what_does_not_vary_is_not_told(tmp_path):
    town = Town(tmp_path)
    for item in ("a", "b"):
        town.item(item).ratings(item, 5).persona(item, "Sea air lover")
    assert town.measure().polarity.critical_with_negative is None


def test_a_name_is_the_same_whatever_its_case_and_is_counted_by_item(town):
    distinctness = town.measure("books").distinctness
    assert distinctness.distinct_names == pytest.approx(4 / 6)
    assert [(entry.name, entry.items, entry.share) for entry in distinctness.most_used] == [
        ("Sea air lover", 2, 0.5), ("Slow plot critic", 2, 0.5),
    ]  # fmt: skip
    assert distinctness.within is None, "not measured without an encoder"


class Compass(HashEncoder):
    """Texts that begin with a direction point there."""

    def encode(self, texts):
        self.read += texts
        return np.array([axis(["North", "East", "South", "West"].index(text.split()[0])) for text in texts], np.float32)


def test_similarity_within_items_stands_against_that_between_items_and_reads_no_quotes(tmp_path):
    town = Town(tmp_path)
    for item, names in (("a", ("North one", "North two", "East one")), ("b", ("South one", "North three"))):
        town.item(item)
        for name in names:
            town.persona(item, name, description="Looks for a way. They say: “Same words. Here too.”")
    town.item("single").persona("single", "West only")
    encoder = Compass()
    distinctness = town.measure(encoder=encoder).distinctness
    assert encoder.read[0] == "North one. Looks for a way." and len(encoder.read) == 5
    assert (distinctness.eligible, distinctness.items) == (2, 2)
    # Within: one of the three pairs of a is alike, none of the one of b. Between: 2 of 6 (north with north).
    assert distinctness.within == pytest.approx(1 / 4)
    assert distinctness.between == pytest.approx(2 / 6)
    assert distinctness.near_duplicates == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, None),
        ({"name": "Reader"}, "name of 2 to 6 words"),
        ({"name": "One of the seven who love sea"}, "name of 2 to 6 words"),
        ({"description": "One. Two. Three. Four."}, "description of 1 to 3 sentences"),
        ({"description": "Looks for calm. They say: “I am. I was. My sea. For me.”"}, None),
        ({"description": "A reader for whom my own sea counts."}, "description without the first person"),
        ({"preference_rationale": "They like it. It is wet."}, "rationale of one sentence"),
        ({"preference_rationale": "They take to it for the sea: “Wet. Salty. Blue.”"}, None),
        ({"preference_rationale": "They take to What now? and Mad about… for the sea."}, None),
        ({"quotes": ["x" * 221]}, "at most 3 quotes of up to 220 characters, and one at least"),
        ({"quotes": []}, "at most 3 quotes of up to 220 characters, and one at least"),
        ({"quotes": [], "source": "summary"}, None),
    ],
)
def test_a_persona_that_breaks_a_rule_is_counted_and_shown(tmp_path, changes, broken):
    town = Town(tmp_path)
    town.item("a").persona("a", "Sea air lover").persona("a", **({"name": "Calm reader"} | changes))
    contract = {rule.rule: rule for rule in town.measure().contract}
    kept = {name: rule.kept for name, rule in contract.items()}
    wrong = {name for name, share in kept.items() if share < 1}
    assert wrong == ({broken, "all of these"} if broken else set())
    if broken:
        assert kept[broken] == kept["all of these"] == 0.5
        (example,) = contract[broken].examples
        assert (example.item_id, example.name) == ("a", changes.get("name", "Calm reader"))


def test_own_words_are_the_sentences_outside_of_quotes_even_if_one_was_cut_off():
    assert own_words('Likes it. Calls it "so. very." wet. They say: “One. Two') == [
        "Likes it.",
        "Calls it   wet.",
        "They say:",
    ]


def test_personas_per_item_stand_against_train_reviews_per_item(town):
    sizes = {band.reviews: band for band in town.item("bare").measure("books").sizes}
    assert list(sizes) == ["0", "2–3", "4–7"]
    # unread has a persona from its summary, bare has none.
    assert (sizes["0"].items, sizes["0"].without, sizes["0"].personas_per_item) == (2, 1, 0.5)
    assert sizes["0"].sources == {"llm": 0, "extractive": 0, "summary": 1}
    assert (sizes["4–7"].items, sizes["4–7"].personas_per_item) == (2, 2.0)
    assert sizes["4–7"].sources == {"llm": 1, "extractive": 3, "summary": 0}


def test_languages_are_those_of_train_reviews_and_of_personas(town):
    for review, language in zip(town.rows["reviews"], ["en", "de", "de", None, "fr"], strict=False):
        town._add(
            "review_aspects", catalog="books", review_id=review["review_id"], item_id=review["item_id"],
            user_id=review["user_id"], language=language, is_evidence=True, source="extractive",
        )  # fmt: skip
    held_out = next(row for row in town.rows["splits"] if row["split"] == "test")
    town._add(
        "review_aspects", catalog="books", review_id=held_out["review_id"], item_id="praised",
        user_id="x", language="xx", is_evidence=True, source="extractive",
    )  # fmt: skip
    found = [(entry.language, entry.reviews, entry.personas) for entry in town.measure("books").languages]
    assert found == [("de", 2, 0), ("en", 1, 5), (None, 1, 1), ("fr", 1, 0)]


def test_the_judge_is_measured_from_what_was_shown_and_answered(tmp_path):
    town = Town(tmp_path)
    town.item("a").item("b")
    town.judged("a", [1.0, 0.0], similar=0, orders=[[0, 1], [1, 0]])
    town.judged("b", [0.5, 0.5], similar=1, orders=[[1, 0], [0, 1]])
    judge = town.measure().judge
    assert (judge.pairs, judge.by_model) == (2, 2)
    assert judge.mean_entropy == pytest.approx(0.5)
    assert (judge.entropy_histogram[0], judge.entropy_histogram[-1], sum(judge.entropy_histogram)) == (1, 1, 2)
    # The first place got 1 and .5 where .5 and .5 are fair.
    assert judge.position_bias_before == pytest.approx(0.25)
    assert judge.position_bias_after == pytest.approx(0.25, abs=1e-5)
    assert (judge.order_flips, judge.agreement, judge.agreement_by_chance) == (0, 0.5, 0.5)
    assert judge.kappa == pytest.approx(0)


def test_a_judge_that_recorded_no_orders_is_said_to_have_recorded_none(tmp_path):
    town = Town(tmp_path)
    town.item("a").persona("a", "Sea air lover").judged("a", [0.75, 0.25], similar=0, orders=None)
    quality = town.measure()
    assert (quality.judge.position_bias_before, quality.judge.order_flips) == (None, None)
    assert re.search(r"position bias of a single order</td><td class=\"n\">not recorded", render_page(quality))


def test_twenty_personas_are_drawn_by_the_seed_and_stay_the_same(tmp_path):
    town = Town(tmp_path)
    town.item("a")
    for number in range(60):
        town.persona("a", f"Reader number {number}")
    first, again, other = (town.measure(seed=seed).sample for seed in (7, 7, 8))
    assert len(first) == 20 and first == again and first != other
    assert first[0].title == "Title of a" and first[0].quotes == ["The sea!"] and first[0].evidence == 1


def test_equal_tables_give_equal_bytes_and_all_catalogues_are_more_than_one(town):
    texts = [town.measure(encoder=HashEncoder()).to_json() for _ in range(2)]
    assert texts[0] == texts[1]
    document = json.loads(texts[0])
    assert document["catalogs"] == 2 and document["main_figures"]["personas"] == 7
    assert "NaN" not in texts[0]


class _Page(HTMLParser):
    """Collects tags and attributes as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def test_whatever_a_name_or_a_quote_holds_the_page_has_no_tag_of_it(tmp_path):
    town = Town(tmp_path)
    town.item("a").ratings("a", 5)
    town.rows["item_summaries"][0]["title"] = HOSTILE
    text = {"description": f"I {HOSTILE}", "preference_rationale": HOSTILE, "quotes": [HOSTILE], "language": HOSTILE}
    town.persona("a", HOSTILE, fallback_reason=HOSTILE, **text).persona("b", HOSTILE, **text)
    town._add(
        "rejected_personas", catalog="books", item_id="a", name=HOSTILE, description=HOSTILE, polarity="mixed",
        support=0.1, source="llm", attempt=1, reason=HOSTILE,
    )  # fmt: skip
    text = render_page(town.measure())
    page = _Page(text)
    assert not {"script", "img", "iframe", "link", "object"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("style", "src")]
    assert all((value or "").startswith("#") for name, value in page.attributes if name == "href")
    assert "&lt;script&gt;" in text and "{{ 7*7 }}" in text and "\u202e" not in text


def test_the_pages_policy_allows_its_own_style_and_nothing_else(town):
    page = render_page(town.measure())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1).replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert "http" not in page.replace("http-equiv", "")


def test_plain_text_is_one_line_without_controls_and_cut():
    assert plain("a\x00b\n\tc \u202ed") == "ab c d"
    assert plain("abcdef", 4) == "abc…"
    assert plain("👩‍🚀") == "👩‍🚀", "what joins an emoji stays"


def test_without_personas_the_report_says_so_and_the_command_fails_clearly(tmp_path, monkeypatch):
    quality = Town(tmp_path).item("a").ratings("a", 5).measure(encoder=HashEncoder())
    assert quality.personas == 0 and "There are no personas yet" in render_page(quality)
    monkeypatch.setenv("PERSONA4REC_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["quality"])
    assert result.exit_code == 1 and "no personas to report on yet" in str(result.exception)
    assert not (tmp_path / "reports").exists()


def reported(town: Town, **options: Any) -> tuple[Settings, Tracking, Any]:
    settings = Settings(home=town.home)
    tracking = Tracking(settings.mlflow_path)
    return settings, tracking, report_quality(settings, town.store().database, tracking, HashEncoder(), **options)


def test_the_asset_writes_page_and_json_logs_them_and_links_them(town):
    settings = Settings(home=town.home)
    resources = {
        "warehouse": town.store().database, "settings": settings, "tracking": Tracking(settings.mlflow_path),
        "text_encoder": HashEncoder(),
    }  # fmt: skip
    versions = []
    for _ in range(2):
        result = dg.materialize([assets.quality_report], resources=resources)
        (event,) = result.asset_materializations_for_node("quality_report")
        versions.append(event.tags["dagster/data_version"])
    assert versions[0] == versions[1]
    page, document = Path(event.metadata["report"].value), Path(event.metadata["json"].value)
    assert page == town.home / "reports" / "quality.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["quality.html", "quality.json"]
    assert event.metadata["personas"].value == 7

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{settings.mlflow_path.absolute()}/mlflow.db")
    run = client.get_run(event.metadata["mlflow_run"].value)
    assert (
        run.info.status == "FINISHED" and run.data.metrics["support_median"] == event.metadata["support_median"].value
    )
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"quality.html", "quality.json"}
    stored = settings.mlflow_path / "artifacts" / run.info.run_id / "artifacts" / "quality.json"
    assert stored.read_bytes() == document.read_bytes()


def test_deleted_reports_are_gone_from_disk_and_from_mlflow_and_other_experiments_keep_theirs(town):
    settings, tracking, report = reported(town, catalog="books")
    with tracking.run("other", "other") as other:
        other.log_text("mine", "quality.json")
    assert report.page.name == "quality-books.html"
    assert delete_reports(settings, tracking) == 4
    left = {path.relative_to(town.home).parts[-3:] for path in town.home.rglob("quality*")}
    assert left == {(other.run_id, "artifacts", "quality.json")}
    assert tracking.delete_files(EXPERIMENT, ["quality.html"]) == 0


def test_a_folder_of_ones_own_takes_the_files(town, tmp_path):
    _, _, report = reported(town, folder=tmp_path / "elsewhere")
    assert report.page == tmp_path / "elsewhere" / "quality.html" and report.json.exists()
    assert not (town.home / "reports").exists()
    assert report.quality.latest_review == f"{FIRST_DAY:%Y-%m-%d}"
