"""Candidates of another recommender, put into a user's order with the reasons, in this process: no server, no model.

Run it after `make demo`; PERSONA4REC_HOME says where the index is (default: ./var).

    .venv/bin/python examples/rerank_in_process.py              # a user of the demo
    .venv/bin/python examples/rerank_in_process.py USER_ID
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from persona4rec_pipeline.index import PersonaIndex


def main() -> None:
    index = PersonaIndex.open(Path(os.environ.get("PERSONA4REC_HOME", "var")) / "index")
    user = sys.argv[1] if len(sys.argv) > 1 else index.users[0]
    liked = ", ".join(past.title or past.item_id for past in index.history_of(user)[:3])
    print(f"{user} liked {liked or 'nothing yet'}\n")

    # Stands for your own first stage: item ids and scores, best first. Here the most popular items are the candidates.
    popular = index.popular(20)
    candidates = [(str(item.catalog), item.item_id) for item in popular]
    scores = [1.0 / place for place in range(1, len(candidates) + 1)]

    weight = index.persona_weight(index.interactions_of(user))
    print(f"Beside scores the personas weigh {weight:.2f}, as learned on held-out users (1 where nothing was learned).")
    print("By the personas alone:\n")
    # Say weight=weight to blend as learned. A user without profile gets the candidates as they are.
    ranked = index.rerank(index.profile_of(user), candidates, 5, scores=scores, weight=1.0)
    for place, item in enumerate(ranked, start=1):
        print(f"{place}. {item.title}  (candidate {item.candidate_place})")
        print(f"   {item.persona_name or 'no persona'}: {item.why}")
        for quote in item.quotes:
            print(f"   “{quote}”")


if __name__ == "__main__":
    main()
