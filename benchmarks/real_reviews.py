"""The whole pipeline on reviews of one's own: time, memory, counts, the evaluation rows, and personas as they come out.

    python -m benchmarks.real_reviews --name films --reviews r.jsonl.gz --items i.jsonl.gz --format generic \
        --map liked=fresh,title=name --domain movie --engine extractive --home /tmp/films

A second run with the same --home shows what a run without change costs.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.reviews.catalogs import list_catalogs
from persona4rec_pipeline.runner import Finished, Listener, run_stale
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--reviews", required=True)
    parser.add_argument("--items")
    parser.add_argument("--format")
    parser.add_argument("--map", default="")
    parser.add_argument("--domain", default="product")
    parser.add_argument("--limit-items", type=int)
    parser.add_argument("--engine", default="extractive")
    parser.add_argument("--panel-fraction", type=float, default=1.0)
    parser.add_argument("--personas", type=int, default=10, help="How many personas to print.")
    given = parser.parse_args()

    began = time.monotonic()
    settings = load_settings(
        home=given.home, generation={"engine": given.engine}, splits={"panel_fraction": given.panel_fraction}
    )
    warehouse = open_warehouse(settings)
    if given.name not in {entry.catalog.name for entry in list_catalogs(warehouse)}:
        mapping = dict(part.split("=", 1) for part in given.map.split(",") if part)
        outcomes = add_catalog(
            settings, given.name, given.reviews, given.items, given.format, mapping, given.limit_items, given.domain
        )
        for outcome in outcomes:
            tell(outcome)
    run_stale(settings, listener=Listener(finished=tell))
    print(f"\ntotal {time.monotonic() - began:.0f} s, peak memory {peak_gib():.2f} GiB (largest process)\n")
    for table in ("reviews", "items", "review_aspects", "personas", "alignment_pairs", "interaction_vectors"):
        print(f"{table:>20}: {warehouse.rows(f'SELECT count(*) FROM {table}')[0][0]:,}")
    print()
    for ranking, hit, mrr, ndcg, users in warehouse.rows(
        """SELECT ranking, max(value) FILTER (metric = 'hr_at_10'), max(value) FILTER (metric = 'mrr_at_10'),
                  max(value) FILTER (metric = 'ndcg_at_10') AS ndcg, max(users)
           FROM evaluation_report GROUP BY ranking ORDER BY ndcg"""
    ):
        print(f"{ranking:>20}: HR@10 {hit:.4f}  MRR@10 {mrr:.4f}  NDCG@10 {ndcg:.4f}  ({users} users)")
    print()
    for source, title, name, polarity, description, rationale in warehouse.rows(
        """SELECT personas.source, title, name, polarity, description, preference_rationale
           FROM personas JOIN item_summaries USING (catalog, item_id) ORDER BY md5(item_id || persona_id) LIMIT ?""",
        [given.personas],
    ):
        print(f"- {title} [{source}, {polarity}]\n  {name}: {description}\n  {rationale}")


def tell(outcome: Finished) -> None:
    if outcome.was_stale:
        print(f"{outcome.asset:>20} {outcome.seconds:8.1f} s", flush=True)


def peak_gib() -> float:
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return usage / 2**20


if __name__ == "__main__":
    main()
