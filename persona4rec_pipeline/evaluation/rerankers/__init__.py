"""Peers to compare with: a language model that reorders candidates online, as others have described it.

Belongs here: cases, four rerankers that ask a model about them, and the time that one of them takes. Does not belong
here: where cases come from, figures from their orders (`metrics.py`), and how the model is run (`generation/`).

None of this is used to recommend; it is what a customer would otherwise run.
"""

from collections.abc import Callable, Sequence

from persona4rec_pipeline.evaluation.rerankers.cases import (
    Candidate,
    Case,
    Example,
    PastItem,
    Reranked,
    Reranker,
)
from persona4rec_pipeline.evaluation.rerankers.latency import seconds_per_request
from persona4rec_pipeline.evaluation.rerankers.listwise import Listwise
from persona4rec_pipeline.evaluation.rerankers.pointwise import FewShot, Pointwise
from persona4rec_pipeline.evaluation.rerankers.profile_score import ProfileScore

# By name, what makes a reranker; the decisions of other train users are read by the few-shot one alone.
RERANKERS: dict[str, Callable[[Sequence[Example]], Reranker]] = {
    "llm_pointwise": lambda examples: Pointwise(),
    "llm_pointwise_few_shot": lambda examples: FewShot(tuple(examples)),
    "llm_listwise": lambda examples: Listwise(),
    "llm_profile_score": lambda examples: ProfileScore(),
}

__all__ = [
    "RERANKERS",
    "Candidate",
    "Case",
    "Example",
    "FewShot",
    "Listwise",
    "PastItem",
    "Pointwise",
    "ProfileScore",
    "Reranked",
    "Reranker",
    "seconds_per_request",
]
