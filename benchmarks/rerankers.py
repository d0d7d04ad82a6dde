"""Ranking by personas against language-model rerankers: the same users, the same candidates, one run.

    python -m benchmarks.planted_ranking --home /tmp/planted --readers 2700 --seeds 7
    python -m benchmarks.rerankers --home /tmp/planted/7/home/backtests/loo-all --users 1000

The home is that of a finished backtest or installation. The rerankers run on the model that `generation.model` names (default:
the packaged one). Printed are NDCG@10 of every row, what a request costs, and how many times slower each reranker is than the
blend: alone (one user waits), and in a batch of all users, which favours the rerankers. Killed, it goes on; batch times are then
those of what was left to do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from persona4rec_pipeline.evaluation.assets import encoders_in_use
from persona4rec_pipeline.evaluation.peers import Cost, ask_rerankers
from persona4rec_pipeline.evaluation.report import BLEND, HEADLINE, REPORTED_SPLIT, evaluate
from persona4rec_pipeline.evaluation.rerankers import RERANKERS
from persona4rec_pipeline.generation import LanguageModel
from persona4rec_pipeline.generation.ledger import Ledger
from persona4rec_pipeline.personas.assets import catalog_domains
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--home", required=True, type=Path, help="State directory with candidates, personas and an encoder."
    )
    parser.add_argument("--users", type=int, default=1000, help="Users with a target to compare on.")
    parser.add_argument("--rerankers", nargs="+", choices=RERANKERS, default=list(RERANKERS))
    given = parser.parse_args()
    settings = load_settings(home=given.home, evaluation={"reranked_users": given.users, "generators": ["ease"]})
    with LanguageModel(settings, Ledger(open_ledger_database(settings))) as model:
        compare(settings, given.rerankers, model)


def compare(settings: Settings, names: list[str], model: LanguageModel) -> None:
    warehouse = open_warehouse(settings)
    domains = catalog_domains(warehouse, settings)
    report = evaluate(
        warehouse,
        encoders_in_use(warehouse, settings, Tracking(settings.mlflow_path)),
        settings,
        ask_peers=lambda slate: ask_rerankers(
            warehouse, slate, names, model, domains, lambda line: print(line, flush=True)
        ),
    )
    if report.peers is None:
        raise SystemExit("Nobody has a target there.")
    free = Cost(None)
    fast = report.costs[BLEND].milliseconds or float("nan")
    lines = []
    for ranking in report.peers.rankings:
        cost, ndcg = report.costs.get(ranking.name, free), ranking.estimates(REPORTED_SPLIT)[HEADLINE]
        alone, batch = ((value / fast if value else None) for value in (cost.milliseconds, cost.batch_milliseconds))
        over = report.peers.of[BLEND].gain_over(ranking, REPORTED_SPLIT)
        lines.append(
            [
                ranking.name,
                str(ndcg),
                str(over),
                cost.prompt_tokens,
                cost.completion_tokens,
                cost.milliseconds,
                alone,
                cost.batch_milliseconds,
                batch,
            ]
        )
    header = ["row", "NDCG@10", "blend over it", "prompt tokens", "answer tokens"]
    header += ["ms alone", "times the blend", "ms in a batch", "times the blend"]
    print(f"{report.peers.users[REPORTED_SPLIT]} requests, {report.peers.depth} candidates, model {model.name}\n")
    print(markdown_table(header, lines))


if __name__ == "__main__":
    main()
