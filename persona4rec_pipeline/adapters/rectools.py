"""The second stage of a RecTools pipeline: candidates of its models, put into the order of the personas.

    from rectools.models.ranking import CandidateGenerator, CandidateRankingModel

    model = CandidateRankingModel(
        candidate_generators=[CandidateGenerator(EASEModel(), 50, keep_ranks=True, keep_scores=True)],
        splitter=TimeRangeSplitter("7D", n_splits=1),
        reranker=PersonaReranker(PersonaIndex.open("var/index")),
    )
    model.fit(dataset)
    model.recommend(users, dataset, k=10, filter_viewed=True)

Belongs here: frames of RecTools in, frames of RecTools out. Does not belong here: any ranking, it is that of
`PersonaIndex.rank`. Needs pandas, and not RecTools: `CandidateRankingModel` calls methods and asks for no class. Checked with
RecTools 0.19.0 (pandas 2.3, numpy 1.26), whose `Reranker` has `fit`, `predict_scores` and `recommend`. `rerank` is for candidates
that come from elsewhere, without a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from persona4rec_pipeline.index import Item, PersonaIndex

# Columns of RecTools (`rectools.Columns`).
USER, ITEM, SCORE, RANK = "user_id", "item_id", "score", "rank"


class PersonaReranker:
    """Orders each user's candidates as `PersonaIndex.rerank` does; takes the place of RecTools' `Reranker`.

    Every candidate comes back. One that the index does not know keeps its place in the candidate order; so do all candidates of
    a user without a profile.
    """

    def __init__(
        self,
        index: PersonaIndex,
        *,
        order_by: str | None = None,
        weight: float | None = None,
        user_of: Callable[[Any], str] = str,
        item_of: Callable[[Any], Item] = str,
    ) -> None:
        """index: an open generation. weight: of the personas, 0 (candidate order) to 1; default: as learned for each user.

        order_by: the column that gives the candidates' own order: a column whose name ends with `rank`, lower first, or any other,
        higher first. Default: the only column that ends with `_score`, else the only one that ends with `_rank`, else the
        order of the rows. user_of, item_of: from ids of the data set to those of the index, for ids that are not the same
        as text, or that need their catalogue: `item_of=lambda item: ("books", str(item))`.

        Raises ValueError for a weight beyond 0 to 1.
        """
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"The weight of the personas is a number from 0 to 1, not {weight}.")
        self.index = index
        self.order_by = order_by
        self.weight = weight
        self.user_of = user_of
        self.item_of = item_of

    def fit(self, candidates_with_target: pd.DataFrame) -> None:
        """Learns nothing, and raises what `predict_scores` would raise: index and blend were learned when the index was built.

        The train interactions that it was built from may hold what RecTools' splitter keeps back; to evaluate a pipeline, hold
        users out when the index is built (`evaluation.panel_fraction`), too.
        """
        self._column_of_order(candidates_with_target)

    def predict_scores(self, candidates: pd.DataFrame) -> np.ndarray:
        """What RecTools sorts by, float64 (n,), one of each row in the order of the rows: 1 divided by the candidate's place
        within its user, which brings it to that place whatever was blended.

        candidates: columns `user_id`, `item_id`, and those of the first stage. Raises KeyError when `order_by` is not among
        them, and ValueError when without it several could give the order.
        """
        column = self._column_of_order(candidates)
        own = None if column is None else candidates[column].to_numpy(np.float64, na_value=np.nan)
        is_rank = column is not None and column.endswith(RANK)
        if own is not None and is_rank:
            own = -own
        found = np.zeros(len(candidates))
        for user, rows, items in self._by_user(candidates):
            found[rows] = 1 / (1 + self._places(user, items, None if own is None else own[rows], is_rank))
        return found

    def persona_scores(self, candidates: pd.DataFrame) -> np.ndarray:
        """The persona scores alone (cosines, -1 to 1), float64 (n,), as a feature for a reranker that is trained; NaN where there
        is none: an unknown item, an unknown user, an item without favourable persona."""
        found = np.full(len(candidates), np.nan)
        for user, rows, items in self._by_user(candidates):
            ranking = self.index.rank(self.index.profile_of(user), dict.fromkeys(items), weight=1.0)
            if ranking.scores is not None:
                of_item = dict(zip(ranking.names, ranking.scores.tolist(), strict=True))
                found[rows] = [of_item.get(item, np.nan) for item in items]
        found[np.isinf(found)] = np.nan
        return found

    @classmethod
    def recommend(cls, scored_pairs: pd.DataFrame, k: int, add_rank_col: bool = True) -> pd.DataFrame:
        """The k best rows of each user, best first, equal ones in the order given; users in the order of their first row.

        scored_pairs: columns `user_id`, `item_id` and `score`. add_rank_col: whether a column `rank` counts them from 1.
        """
        first_rows = pd.factorize(scored_pairs[USER], use_na_sentinel=False)[0]
        order = np.lexsort((-scored_pairs[SCORE].to_numpy(), first_rows))
        found = scored_pairs.iloc[order]
        ranks = found.groupby(USER, sort=False, dropna=False).cumcount() + 1
        found = found[ranks <= k].reset_index(drop=True)
        if add_rank_col:
            found[RANK] = ranks[ranks <= k].to_numpy()
        return found

    def rerank(self, candidates: pd.DataFrame, k: int | None = None) -> pd.DataFrame:
        """All candidates, or the k best of each user: `user_id`, `item_id`, `score`, `rank`; arguments and errors as
        `predict_scores`."""
        pairs = candidates[[USER, ITEM]].assign(**{SCORE: self.predict_scores(candidates)})
        return self.recommend(pairs, len(pairs) if k is None else k)

    def _by_user(self, candidates: pd.DataFrame) -> Iterator[tuple[str, np.ndarray, list[Item]]]:
        """Each user with the positions of its rows, int64, and the items that stand there."""
        # A missing id is a user like another, so that its candidates do not go missing with it.
        numbers, users = pd.factorize(candidates[USER], use_na_sentinel=False)
        items = candidates[ITEM].tolist()
        by_user = np.argsort(numbers, kind="stable")
        for rows in np.split(by_user, np.flatnonzero(np.diff(numbers[by_user])) + 1):
            if len(rows):
                yield self.user_of(users[numbers[rows[0]]]), rows, [self.item_of(items[row]) for row in rows]

    def _column_of_order(self, candidates: pd.DataFrame) -> str | None:
        if self.order_by is not None:
            if self.order_by not in candidates.columns:
                raise KeyError(f"order_by names {self.order_by!r}, the candidates have {list(candidates.columns)}.")
            return self.order_by
        for ending in (f"_{SCORE}", f"_{RANK}"):
            columns = [column for column in candidates.columns if str(column).endswith(ending)]
            if len(columns) > 1:
                raise ValueError(
                    f"Several columns could give the candidate order: {', '.join(columns)}. Name one as order_by, or put one "
                    "together in a feature collector."
                )
            if columns:
                return str(columns[0])
        return None

    def _places(self, user: str, items: list[Item], own: np.ndarray | None, is_rank: bool) -> np.ndarray:
        """Place, int64 (n,), from 0, of each of a user's candidates."""
        given = np.arange(len(items))
        scores = None
        if own is not None:
            # What another generator brought in has no score of this one: it comes after those that have.
            given = np.lexsort((np.where(np.isnan(own), 0, -own), np.isnan(own)))
            if not is_rank:
                lowest = np.nanmin(own) if not np.isnan(own).all() else 0.0
                scores = np.where(np.isnan(own), lowest, own)[given]
        ordered = [items[place] for place in given]
        ranking = self.index.rank(
            self.index.profile_of(user),
            ordered,
            scores=None if scores is None else scores.tolist(),
            weight=self.weight,
            interactions=self.index.interactions_of(user),
        )
        place_of = {ranking.names[position]: place for place, position in enumerate(ranking.order.tolist())}
        # A second name of an item that is already there ("dune" and its pair with the catalogue) comes last.
        return np.array([place_of.get(item, len(place_of)) for item in items], np.int64)
