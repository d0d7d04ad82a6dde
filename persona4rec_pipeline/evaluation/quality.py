"""What the personas and the judge are like, in figures: the content of the quality report.

Belongs here: the figures, each from the tables of the warehouse and from train interactions alone. Does not belong here:
how they are shown and where they are kept (`quality_page.py`), the gate that accepts a persona (`personas/`), the ranking
that the personas give (`report.py`).

Equal tables and an equal seed give equal figures, byte by byte in JSON. Rows stay in DuckDB; into memory come the counts,
one page of personas at a time for what only Python can read, and the texts of the items whose distinctness is measured.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from persona4rec_pipeline.alignment.figures import judge_figures
from persona4rec_pipeline.personas.grouping import NEUTRAL_BAND
from persona4rec_pipeline.personas.persona import MAX_QUOTE_CHARACTERS, MAX_QUOTES
from persona4rec_pipeline.personas.text import sentences, words
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

SOURCES = ("llm", "extractive", "summary")
POLARITIES = ("appreciative", "mixed", "critical")
RATINGS = ("positive", "neutral", "negative")
# Personas that are shown for a human eye, and the seed by which they are drawn.
SAMPLED_PERSONAS = 20
DEFAULT_SEED = 7
# Items, drawn by hash, whose persona texts are encoded: enough for a mean to two digits, seconds on two cores.
ENCODED_ITEMS = 300
HISTOGRAM_BINS = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Supports below which the share of personas is told; half is what a random sentence would get.
SUPPORT_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
MOST_USED_NAMES = 10
BROKEN_EXAMPLES = 3
# Train reviews of an item, from a band's number to the next one's.
REVIEW_BANDS = (0, 1, 2, 4, 8, 16, 32, 64)
# Shares of negative reviews, from a band's number to the next one's.
NEGATIVE_BANDS = (0.0, 0.001, 0.1, 0.25, 0.5)
NAME_WORDS = (2, 6)
DESCRIPTION_SENTENCES = (1, 3)
PAGE = 20_000
DIGITS = 4

# A passage in quotation marks; one that was cut off has no end.
_QUOTED = re.compile(r"“[^”]*(?:”|$)|«[^»]*(?:»|$)|\"[^\"]*\"")
_FIRST_PERSON = re.compile(r"\bI\b|\b[Mm](?:y|e|ine|yself)\b")

# What every query may begin with. $catalog is NULL for all catalogues.
_SCOPE = """
WITH train AS (
    -- What says something: clicks are no reviews that a persona could rest on.
    SELECT reviews.* FROM reviews JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND reviews.text <> '' AND ($catalog IS NULL OR reviews.catalog = $catalog)
), known AS (
    FROM items WHERE $catalog IS NULL OR catalog = $catalog
), made AS (
    FROM personas WHERE $catalog IS NULL OR catalog = $catalog
), rejected AS (
    -- A reason with its measured values in brackets is one reason.
    SELECT * REPLACE (regexp_replace(reason, '\\s*\\([^)]*\\)', '', 'g') AS reason)
    FROM rejected_personas WHERE $catalog IS NULL OR catalog = $catalog
), judged AS (
    SELECT alignment_pairs.* FROM alignment_pairs JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND ($catalog IS NULL OR alignment_pairs.catalog = $catalog)
)
"""


class Encodes(Protocol):
    """Texts to unit vectors: float32 (n, d), in their order."""

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class SourceAcceptance:
    """Personas of one source. standing_in: published ones that stand in for one that was not accepted; accepted: share
    (0-1) of published among published and rejected, None without any."""

    source: str
    published: int
    standing_in: int
    rejected: int
    accepted: float | None


@dataclass(frozen=True)
class Rejection:
    """Why personas were not published. attempt: 1 the first answer, 2 after it was told what was wrong."""

    reason: str
    source: str
    attempt: int
    personas: int


@dataclass(frozen=True)
class Acceptance:
    """What was published, what was not, and why; `fallbacks` counts published stand-ins by reason."""

    by_source: tuple[SourceAcceptance, ...]
    rejections: tuple[Rejection, ...]
    fallbacks: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class SupportGroup:
    """Support of one group of personas: 'all', a polarity or a source. low, high: 5th and 95th percentile."""

    group: str
    personas: int
    missing: int
    mean: float | None
    low: float | None
    median: float | None
    high: float | None


@dataclass(frozen=True)
class Support:
    """Support scores (0-1). histogram: personas in HISTOGRAM_BINS equal bins of 0-1; quantiles, below: (level, value);
    both empty when no persona has a support. missing: share (0-1) without a score."""

    groups: tuple[SupportGroup, ...]
    histogram: tuple[int, ...]
    quantiles: tuple[tuple[float, float], ...]
    below: tuple[tuple[float, float], ...]
    missing: float


@dataclass(frozen=True)
class NegativeBand:
    """Items whose share of negative train reviews lies in a band, and the share (0-1) that has a critical persona."""

    label: str
    items: int
    with_critical: float


@dataclass(frozen=True)
class PolarityMix:
    """Personas by polarity against the rated train reviews of the same items; shares (0-1).

    positive: liked, where the source says so, else by `reviews.positive_rating`; neutral and negative: the others by their
    rating, as in persona construction. The correlations are Pearson's
    over items, of the share of appreciative personas with the share of positive reviews, and of critical with negative;
    None where one of the two does not vary.
    """

    personas: dict[str, float]
    reviews: dict[str, float]
    rated_reviews: int
    unrated_reviews: int
    items: int
    appreciative_with_positive: float | None
    critical_with_negative: float | None
    bands: tuple[NegativeBand, ...]


@dataclass(frozen=True)
class UsedName:
    """A name, how many items have it, and their share (0-1) of the items with personas."""

    name: str
    items: int
    share: float


@dataclass(frozen=True)
class Distinctness:
    """How much personas differ. distinct_names: share (0-1), letter case ignored.

    The similarities are mean cosines of name and description without quotes, over all pairs of personas of one item and
    over all pairs of different items, of `items` items drawn by hash among those with two personas or more (`eligible`);
    None where no encoder was given or too few items are there. near_duplicates: share of the pairs within items that
    reach `personas.duplicate_similarity`.
    """

    distinct_names: float
    most_used: tuple[UsedName, ...]
    eligible: int
    items: int
    within: float | None
    between: float | None
    near_duplicates: float | None
    duplicate_similarity: float


@dataclass(frozen=True)
class Broken:
    """A persona that does not keep a rule, with the text in question."""

    catalog: str
    item_id: str
    name: str
    text: str


@dataclass(frozen=True)
class Rule:
    """One rule of length and form. kept: share (0-1) of personas; by_source: the same by source."""

    rule: str
    kept: float
    broken: int
    by_source: dict[str, float]
    examples: tuple[Broken, ...]


@dataclass(frozen=True)
class SizeBand:
    """Items by their number of train reviews: how many personas they have, and from which sources."""

    reviews: str
    items: int
    without: int
    personas_per_item: float
    sources: dict[str, int]


@dataclass(frozen=True)
class Language:
    """An ISO 639-1 code (None: not recorded, or too short to tell), its train reviews and its personas."""

    language: str | None
    reviews: int
    personas: int


@dataclass(frozen=True)
class Judge:
    """The judge's answers on pairs with two options or more; None where the columns were not recorded.

    entropy: mean over its highest value, 0 certain and 1 flat; entropy_histogram: pairs in equal bins of 0-1. position
    bias: total variation (0-1) between the probability that the places of the list got and what they would get without
    regard to place, before and after averaging over orders. order_flips: share whose choice differs between two orders.
    agreement: share with the same choice as similarity alone, agreement_by_chance: of a random choice, kappa: Cohen's.
    """

    pairs: int
    by_model: int
    mean_entropy: float | None
    entropy_histogram: tuple[int, ...]
    position_bias_before: float | None
    position_bias_after: float | None
    order_flips: float | None
    agreement: float | None
    agreement_by_chance: float | None
    kappa: float | None


@dataclass(frozen=True)
class SampledPersona:
    """A persona as it is published, for a human eye."""

    catalog: str
    item_id: str
    title: str
    name: str
    polarity: str
    source: str
    support: float | None
    description: str
    preference_rationale: str
    quotes: Sequence[str]
    evidence: int


@dataclass(frozen=True)
class Quality:
    """The whole report. catalog: None for all; latest_review: day of the last train review, None without any."""

    catalog: str | None
    catalogs: int
    items: int
    reviews: int
    personas: int
    latest_review: str | None
    seed: int
    acceptance: Acceptance
    support: Support
    polarity: PolarityMix
    distinctness: Distinctness
    contract: tuple[Rule, ...]
    sizes: tuple[SizeBand, ...]
    languages: tuple[Language, ...]
    judge: Judge
    sample: tuple[SampledPersona, ...]

    def main_figures(self) -> dict[str, float]:
        """One number per subject, by name; what was not measured is left out."""
        all_personas = next((group for group in self.support.groups if group.group == "all"), None)
        # What is made from a summary is never rejected.
        written = [entry for entry in self.acceptance.by_source if entry.source != "summary"]
        standing_in = sum(entry.standing_in for entry in self.acceptance.by_source)
        found: dict[str, float | None] = {
            "items": self.items,
            "personas": self.personas,
            "personas_per_item": self.personas / self.items if self.items else None,
            **{f"accepted_{entry.source}": entry.accepted for entry in written},
            "standing_in": standing_in / self.personas if self.personas else None,
            "support_median": all_personas.median if all_personas else None,
            "support_missing": self.support.missing if self.personas else None,
            **{f"personas_{name}": share for name, share in self.polarity.personas.items()},
            **{f"reviews_{name}": share for name, share in self.polarity.reviews.items()},
            "critical_with_negative": self.polarity.critical_with_negative,
            "distinct_names": self.distinctness.distinct_names if self.personas else None,
            "most_used_name": self.distinctness.most_used[0].share if self.distinctness.most_used else None,
            "similarity_within_items": self.distinctness.within,
            "similarity_between_items": self.distinctness.between,
            "contract_kept": self.contract[-1].kept if self.contract else None,
            "judged_pairs": self.judge.pairs,
            "judge_entropy": self.judge.mean_entropy,
            "position_bias_before": self.judge.position_bias_before,
            "position_bias_after": self.judge.position_bias_after,
            "order_flips": self.judge.order_flips,
            "judge_agreement": self.judge.agreement,
            "judge_kappa": self.judge.kappa,
        }
        return {name: round(value, DIGITS) for name, value in found.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; floats with DIGITS digits, so that the order of a sum does not show."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return {"main_figures": self.main_figures(), **rounded}

    def to_json(self) -> str:
        """`to_dict` as text; equal figures give equal text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def measure_quality(
    warehouse: Database,
    text_encoder: Encodes | None,
    catalog: str | None,
    settings: Settings,
    seed: int = DEFAULT_SEED,
) -> Quality:
    """Every figure of one catalogue, or of all; without personas the figures are zero or None and nothing fails.

    text_encoder: for the similarities of persona texts, which are left out without it. seed: of the sample.
    """
    rows = _Rows(warehouse, catalog)
    catalogs, items, personas = rows(
        "SELECT (SELECT count(DISTINCT catalog) FROM made), (SELECT count(*) FROM known), (SELECT count(*) FROM made)"
    )[0]
    reviews, latest = rows("SELECT count(*), max(reviewed_at) FROM train")[0]
    return Quality(
        catalog=catalog,
        catalogs=catalogs,
        items=items,
        reviews=reviews,
        personas=personas,
        latest_review=f"{latest:%Y-%m-%d}" if latest else None,
        seed=seed,
        acceptance=_acceptance(rows),
        support=_support(rows, personas),
        polarity=_polarity(rows, settings.reviews.positive_rating),
        distinctness=_distinctness(rows, text_encoder, settings.personas.duplicate_similarity),
        contract=_contract(rows),
        sizes=_sizes(rows),
        languages=_languages(rows),
        judge=_judge(rows),
        sample=_sample(rows, seed),
    )


def own_words(text: str) -> list[str]:
    """The sentences of a text without its quoted passages; what only leads to a quote (`They say:`) is one of them.

    What goes on with a small letter is no new sentence: titles within a sentence have stops of their own.
    """
    found: list[str] = []
    for piece in sentences(_QUOTED.sub(" ", text)):
        if not words(piece.text):
            continue
        if found and piece.text[0].islower():
            found[-1] += f" {piece.text}"
        else:
            found.append(piece.text)
    return found


@dataclass(frozen=True)
class _Rows:
    """Queries within one catalogue or all; they may read from `train`, `known`, `made`, `rejected` and `judged`."""

    warehouse: Database
    catalog: str | None

    def __call__(self, query: str, **parameters: object) -> list[tuple]:
        return self.warehouse.rows(f"{_SCOPE} {query}", {"catalog": self.catalog, **parameters})


def _acceptance(rows: _Rows) -> Acceptance:
    published = {
        source: (count, standing_in)
        for source, count, standing_in in rows(
            "SELECT source, count(*), count(fallback_reason) FROM made GROUP BY source"
        )
    }
    rejections = [
        Rejection(*row)
        for row in rows(
            "SELECT reason, source, attempt, count(*) AS personas FROM rejected GROUP BY ALL "
            "ORDER BY personas DESC, reason, source, attempt"
        )
    ]
    by_source = []
    for source in SOURCES:
        count, standing_in = published.get(source, (0, 0))
        rejected = sum(entry.personas for entry in rejections if entry.source == source)
        by_source.append(SourceAcceptance(source, count, standing_in, rejected, _share(count, count + rejected)))
    fallbacks = rows(
        "SELECT regexp_replace(fallback_reason, '\\s*\\([^)]*\\)', '', 'g') AS reason, count(*) AS personas FROM made "
        "WHERE fallback_reason IS NOT NULL GROUP BY reason ORDER BY personas DESC, reason"
    )
    return Acceptance(tuple(by_source), tuple(rejections), tuple(fallbacks))


def _support(rows: _Rows, personas: int) -> Support:
    found = rows(
        """SELECT CASE WHEN GROUPING(polarity) = 0 THEN polarity WHEN GROUPING(source) = 0 THEN source ELSE 'all' END,
            count(*), count(*) - count(support), avg(support), quantile_cont(support, 0.05),
            quantile_cont(support, 0.5), quantile_cont(support, 0.95)
        FROM made GROUP BY GROUPING SETS ((), (polarity), (source))"""
    )
    groups = {row[0]: SupportGroup(*row) for row in found if row[1]}
    order = ("all", *POLARITIES, *SOURCES)
    measured = personas - groups["all"].missing if "all" in groups else 0
    histogram = [0] * HISTOGRAM_BINS
    for place, count in rows(
        f"SELECT least(greatest(floor(support * {HISTOGRAM_BINS}), 0), {HISTOGRAM_BINS - 1})::INTEGER, count(*) "
        "FROM made WHERE support IS NOT NULL GROUP BY 1"
    ):
        histogram[place] = count
    quantiles: tuple[tuple[float, float], ...] = ()
    below: tuple[tuple[float, float], ...] = ()
    if measured:
        values = rows(f"SELECT quantile_cont(support, {list(QUANTILES)}) FROM made")[0][0]
        quantiles = tuple(zip(QUANTILES, values, strict=True))
        counts = rows(
            f"SELECT {', '.join(f'count(*) FILTER (WHERE support < {level})' for level in SUPPORT_LEVELS)} FROM made"
        )[0]
        below = tuple((level, count / measured) for level, count in zip(SUPPORT_LEVELS, counts, strict=True))
    return Support(
        groups=tuple(groups[name] for name in order if name in groups),
        histogram=tuple(histogram) if measured else (),
        quantiles=quantiles,
        below=below,
        missing=(personas - measured) / personas if personas else 0.0,
    )


# Per item with personas: counts of personas by polarity and of train reviews by rating.
_MIX = """, mix AS (
    SELECT * FROM (
        SELECT catalog, item_id, count(*) AS personas,
            count(*) FILTER (WHERE polarity = 'appreciative') AS appreciative,
            count(*) FILTER (WHERE polarity = 'mixed') AS mixed,
            count(*) FILTER (WHERE polarity = 'critical') AS critical
        FROM made GROUP BY catalog, item_id
    ) LEFT JOIN (
        SELECT catalog, item_id, count(rating) AS rated, count(*) - count(rating) AS unrated,
            count(rating) FILTER (WHERE is_positive) AS positive,
            count(*) FILTER (WHERE NOT is_positive AND rating >= $positive - $band) AS neutral,
            count(*) FILTER (WHERE NOT is_positive AND rating < $positive - $band) AS negative
        FROM train GROUP BY catalog, item_id
    ) USING (catalog, item_id)
)
"""


def _polarity(rows: _Rows, positive_rating: float) -> PolarityMix:
    parameters = {"positive": positive_rating, "band": NEUTRAL_BAND}
    totals = rows(
        f"""{_MIX} SELECT sum(appreciative), sum(mixed), sum(critical), sum(positive), sum(neutral), sum(negative),
            sum(unrated), count(*) FILTER (WHERE rated > 0),
            corr(appreciative / personas, positive / rated) FILTER (WHERE rated > 0),
            corr(critical / personas, negative / rated) FILTER (WHERE rated > 0) FROM mix""",
        **parameters,
    )[0]
    counts = [int(value or 0) for value in totals[:8]]
    labels = ["none", *(_percent_band(NEGATIVE_BANDS, place) for place in range(1, len(NEGATIVE_BANDS)))]
    bands = {
        place: NegativeBand(labels[place], items, share)
        for place, items, share in rows(
            f"""{_MIX} SELECT {_band("negative / rated", NEGATIVE_BANDS)} AS place, count(*),
                count(*) FILTER (WHERE critical > 0) / count(*)
            FROM mix WHERE rated > 0 GROUP BY place""",
            **parameters,
        )
    }
    rated = sum(counts[3:6])
    return PolarityMix(
        personas=_shares(POLARITIES, counts[:3]),
        reviews=_shares(RATINGS, counts[3:6]),
        rated_reviews=rated,
        unrated_reviews=counts[6],
        items=counts[7],
        appreciative_with_positive=_finite(totals[8]),
        critical_with_negative=_finite(totals[9]),
        bands=tuple(bands[place] for place in sorted(bands)),
    )


def _distinctness(rows: _Rows, text_encoder: Encodes | None, duplicate_similarity: float) -> Distinctness:
    distinct, items, eligible = rows(
        """SELECT (SELECT count(DISTINCT lower(trim(name))) / nullif(count(*), 0) FROM made),
            (SELECT count(*) FROM (SELECT DISTINCT catalog, item_id FROM made)),
            (SELECT count(*) FROM (SELECT 1 FROM made GROUP BY catalog, item_id HAVING count(*) > 1))"""
    )[0]
    most_used = rows(
        f"""SELECT min(name), count(DISTINCT (catalog, item_id)) AS items FROM made GROUP BY lower(trim(name))
        HAVING items > 1 ORDER BY items DESC, lower(trim(name)) LIMIT {MOST_USED_NAMES}"""
    )
    texts: dict[tuple[str, str], list[str]] = {}
    if text_encoder is not None:
        for catalog, item_id, name, description in rows(
            f"""SELECT catalog, item_id, name, description FROM made SEMI JOIN (
                SELECT catalog, item_id FROM made GROUP BY catalog, item_id HAVING count(*) > 1
                ORDER BY md5(catalog || '/' || item_id), catalog, item_id LIMIT {ENCODED_ITEMS}
            ) USING (catalog, item_id) ORDER BY catalog, item_id, persona_id"""
        ):
            # A quote is the reader's, not the persona's: personas of one item may quote the same sentence.
            said = [sentence for sentence in own_words(description) if not sentence.endswith(":")]
            texts.setdefault((catalog, item_id), []).append(" ".join([f"{name}.", *said]))
    within = between = near = None
    if text_encoder is not None and texts:
        flat = [text for found in texts.values() for text in found]
        vectors = np.asarray(text_encoder.encode(flat), dtype=np.float64)
        within, between, near = _similarities(vectors, [len(found) for found in texts.values()], duplicate_similarity)
    return Distinctness(
        distinct_names=distinct or 0.0,
        most_used=tuple(UsedName(name, count, count / items) for name, count in most_used),
        eligible=eligible,
        items=len(texts),
        within=within,
        between=between,
        near_duplicates=near,
        duplicate_similarity=duplicate_similarity,
    )


def _similarities(
    vectors: np.ndarray, sizes: Sequence[int], duplicate_similarity: float
) -> tuple[float, float | None, float]:
    """Mean cosine of the pairs within items, of the pairs between items (None for one item), and the share of the former
    that reach `duplicate_similarity`. vectors: unit (n, d), item after item; sizes: personas of each item, two or more."""
    pairs = inside = near = 0.0
    start = 0
    for size in sizes:
        own = vectors[start : start + size]
        cosines = (own @ own.T)[np.triu_indices(size, 1)]
        pairs += len(cosines)
        inside += float(cosines.sum())
        near += float((cosines >= duplicate_similarity).sum())
        start += size
    # The sum over all pairs follows from the sum of the vectors; what is not within an item lies between two.
    total = vectors.sum(axis=0)
    everything = (float(total @ total) - float((vectors * vectors).sum())) / 2
    other_pairs = len(vectors) * (len(vectors) - 1) / 2 - pairs
    return inside / pairs, (everything - inside) / other_pairs if other_pairs else None, near / pairs


_RULES = (
    f"name of {NAME_WORDS[0]} to {NAME_WORDS[1]} words",
    f"description of {DESCRIPTION_SENTENCES[0]} to {DESCRIPTION_SENTENCES[1]} sentences",
    "description without the first person",
    "rationale of one sentence",
    f"at most {MAX_QUOTES} quotes of up to {MAX_QUOTE_CHARACTERS} characters, and one at least",
)
_ALL_RULES = "all of these"


def _broken_rules(
    name: str, description: str, rationale: str, quotes: Sequence[str], source: str
) -> Iterator[tuple[str, str]]:
    """(rule, text in question) of each rule that a persona does not keep."""
    told = own_words(description)
    if not NAME_WORDS[0] <= len(words(name)) <= NAME_WORDS[1]:
        yield _RULES[0], name
    if not DESCRIPTION_SENTENCES[0] <= len(told) <= DESCRIPTION_SENTENCES[1]:
        yield _RULES[1], description
    if any(_FIRST_PERSON.search(sentence) for sentence in told):
        yield _RULES[2], description
    if len(own_words(rationale)) != 1:
        yield _RULES[3], rationale
    # What is made from the summary alone has nobody to quote.
    fewest = 0 if source == "summary" else 1
    longest = max(quotes, key=len, default="")
    if not fewest <= len(quotes) <= MAX_QUOTES or len(longest) > MAX_QUOTE_CHARACTERS:
        yield _RULES[4], longest or "no quote"


def _contract(rows: _Rows) -> tuple[Rule, ...]:
    personas: Counter[str] = Counter()
    broken: Counter[tuple[str, str]] = Counter()
    examples: dict[str, list[Broken]] = {rule: [] for rule in (*_RULES, _ALL_RULES)}
    for catalog, item_id, _, name, description, rationale, quotes, source in _pages(rows):
        personas[source] += 1
        found = list(_broken_rules(name, description, rationale, quotes, source))
        if found:
            broken[_ALL_RULES, source] += 1
        for rule, text in found:
            broken[rule, source] += 1
            if len(examples[rule]) < BROKEN_EXAMPLES:
                examples[rule].append(Broken(catalog, item_id, name, text))
    total = personas.total()
    if not total:
        return ()
    return tuple(
        Rule(
            rule=rule,
            kept=1 - sum(broken[rule, source] for source in SOURCES) / total,
            broken=sum(broken[rule, source] for source in SOURCES),
            by_source={source: 1 - broken[rule, source] / personas[source] for source in SOURCES if personas[source]},
            examples=tuple(found),
        )
        for rule, found in examples.items()
    )


def _pages(rows: _Rows) -> Iterator[tuple]:
    """Every persona, in the order of its key; PAGE of them at a time, so that no writer waits for our reading."""
    after = ("", "", "")
    while True:
        page = rows(
            f"""SELECT catalog, item_id, persona_id, name, description, preference_rationale, quotes, source FROM made
            WHERE (catalog, item_id, persona_id) > ($after_catalog, $after_item, $after_persona)
            ORDER BY catalog, item_id, persona_id LIMIT {PAGE}""",
            after_catalog=after[0],
            after_item=after[1],
            after_persona=after[2],
        )
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1][:3]


def _sizes(rows: _Rows) -> tuple[SizeBand, ...]:
    counted = ", ".join(f"sum(coalesce({source}, 0))" for source in SOURCES)
    found = rows(
        f"""SELECT {_band("coalesce(reviews, 0)", REVIEW_BANDS)} AS place, count(*),
            count(*) FILTER (WHERE personas IS NULL), sum(coalesce(personas, 0)) / count(*), {counted}
        FROM known
        LEFT JOIN (SELECT catalog, item_id, count(*) AS reviews FROM train GROUP BY ALL) USING (catalog, item_id)
        LEFT JOIN (
            SELECT catalog, item_id, count(*) AS personas,
                {", ".join(f"count(*) FILTER (WHERE source = '{source}') AS {source}" for source in SOURCES)}
            FROM made GROUP BY catalog, item_id
        ) USING (catalog, item_id) GROUP BY place ORDER BY place"""
    )
    return tuple(
        SizeBand(_count_band(place), items, without, mean, dict(zip(SOURCES, map(int, counts), strict=True)))
        for place, items, without, mean, *counts in found
    )


def _languages(rows: _Rows) -> tuple[Language, ...]:
    found = rows(
        """SELECT coalesce(read.language, written.language), coalesce(reviews, 0) AS reviews, coalesce(personas, 0)
        FROM (SELECT language, count(*) AS reviews FROM train JOIN review_aspects USING (catalog, review_id)
              GROUP BY language) AS read
        FULL JOIN (SELECT language, count(*) AS personas FROM made GROUP BY language) AS written
            ON read.language IS NOT DISTINCT FROM written.language
        ORDER BY reviews DESC, 3 DESC, 1 NULLS LAST"""
    )
    return tuple(Language(*row) for row in found)


def _judge(rows: _Rows) -> Judge:
    pairs, by_model = rows(
        "SELECT count(*), count(*) FILTER (WHERE source = 'llm') FROM judged WHERE len(option_ids) > 1"
    )[0]
    found = judge_figures(rows.warehouse, rows.catalog)
    return Judge(
        pairs=pairs,
        by_model=by_model,
        mean_entropy=found.mean_entropy,
        entropy_histogram=tuple(found.entropy_counts) if found.mean_entropy is not None else (),
        position_bias_before=found.position_before.distance if found.position_before else None,
        position_bias_after=found.position_after.distance if found.position_after else None,
        order_flips=found.changed_by_order,
        agreement=found.agreement.observed if found.agreement else None,
        agreement_by_chance=found.agreement.by_chance if found.agreement else None,
        kappa=found.agreement.kappa if found.agreement else None,
    )


def _sample(rows: _Rows, seed: int) -> tuple[SampledPersona, ...]:
    found = rows(
        f"""SELECT catalog, item_id, coalesce(item_summaries.title, known.title, item_id), name, polarity,
            made.source, support, made.description, preference_rationale, quotes, len(evidence_review_ids)
        FROM made LEFT JOIN item_summaries USING (catalog, item_id) LEFT JOIN known USING (catalog, item_id)
        ORDER BY md5(concat_ws('/', $seed::VARCHAR, catalog, item_id, persona_id)), catalog, item_id, persona_id
        LIMIT {SAMPLED_PERSONAS}""",
        seed=seed,
    )
    return tuple(SampledPersona(*row) for row in found)


def _band(value: str, starts: Sequence[float]) -> str:
    """SQL: the place of the band that a value lies in."""
    return " + ".join(f"({value} >= {start})::INTEGER" for start in starts[1:])


def _count_band(place: int) -> str:
    start = REVIEW_BANDS[place]
    if place + 1 == len(REVIEW_BANDS):
        return f"{start}+"
    last = REVIEW_BANDS[place + 1] - 1
    return str(start) if last == start else f"{start}–{last}"


def _percent_band(starts: Sequence[float], place: int) -> str:
    low = f"{starts[place]:.0%}" if starts[place] >= 0.01 else "0%"
    return f"{low} to {starts[place + 1]:.0%}" if place + 1 < len(starts) else f"{low} and more"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shares(names: Sequence[str], counts: Sequence[int]) -> dict[str, float]:
    total = sum(counts)
    return {name: count / total for name, count in zip(names, counts, strict=True)} if total else {}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
