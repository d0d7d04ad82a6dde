"""The candidate generators: what each learns from the matrix of positive train interactions, and its scores.

Belongs here: popularity, item-kNN, ALS, BPR, EASE. Does not belong here: reading interactions, what a user has seen, the
choice of the best items (`candidates.py`), candidates from elsewhere (`candidates_file.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from persona4rec_pipeline.settings import EvaluationSettings

POPULARITY = "popularity"
ITEM_KNN = "item_knn"
ALS = "als"
BPR = "bpr"
EASE = "ease"
GENERATORS = (POPULARITY, ITEM_KNN, ALS, BPR, EASE)

# More threads than this do not make ALS faster.
MAX_THREADS = 8
# Scores are rounded to this many decimals, so that the order of summation decides neither a tie nor what is above 0.
SCORE_DECIMALS = 9

# Rows of the matrix, int64 (n,) -> scores float64 (n, items); -inf where the generator has nothing to say of an item.
Scorer = Callable[[np.ndarray], np.ndarray]


def fit(generator: str, positive: sparse.csr_matrix, settings: EvaluationSettings) -> Scorer:
    """Train a generator of GENERATORS on float64 CSR (users, items) of ones; the same matrix gives the same scores.

    Item-kNN and EASE propose only items whose score is above 0: a sum of similarities, it is 0 for an item that has
    nothing to do with the user. The scores of ALS and BPR mean nothing but their order, so that all items have one.
    """
    if generator == POPULARITY:
        counts = np.asarray(positive.sum(axis=0), np.float64).ravel()
        return lambda rows: np.tile(counts, (len(rows), 1))
    if generator in (ALS, BPR):
        users, items = (als if generator == ALS else bpr)(positive, settings)
        item_columns = items.astype(np.float64).T
        return lambda rows: np.round(users[rows].astype(np.float64) @ item_columns, SCORE_DECIMALS)
    if generator == EASE:
        weights = ease(positive, settings.ease_l2)
        return lambda rows: _above_zero(positive[rows] @ weights)
    if generator == ITEM_KNN:
        similarity = item_knn(positive, settings.knn_neighbours)
        return lambda rows: _above_zero((positive[rows] @ similarity).toarray())
    raise ValueError(f"There is no candidate generator {generator}; there are {', '.join(GENERATORS)}.")


def ease(positive: sparse.csr_matrix, l2: float) -> np.ndarray:
    """Item-item weights B, float64 (items, items), of EASE; a user's scores are the user's row of the matrix times B.

    B = I - P diag(1 / P_jj) off the diagonal and 0 on it, with P = (X^T X + l2 I)^-1 (Steck, "Embarrassingly Shallow
    Autoencoders for Sparse Data", WWW 2019, equation 8). Takes items^2 doubles, three times over while it inverts.
    """
    gram = (positive.T @ positive).toarray()
    gram[np.diag_indices_from(gram)] += l2
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def item_knn(positive: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Item-item cosines, CSR (items, items), of each item and its nearest `neighbours`, from `implicit`."""
    from implicit.nearest_neighbours import CosineRecommender
    from implicit.utils import ParameterWarning

    # An item is its own nearest neighbour there, hence one more.
    model = CosineRecommender(K=neighbours + 1, num_threads=1)
    with warnings.catch_warnings():
        # It complains about a matrix that it made itself.
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(positive, show_progress=False)
    similarity = sparse.csr_matrix(model.similarity)
    similarity.setdiag(0)
    similarity.eliminate_zeros()
    return similarity


def als(positive: sparse.csr_matrix, settings: EvaluationSettings) -> tuple[np.ndarray, np.ndarray]:
    """Factors of users and items, float32 (users, k) and (items, k), whose products are the scores, from `implicit`.

    Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.
    """
    from implicit.als import AlternatingLeastSquares

    # Threads of BLAS beside those of implicit slow it down, and the order of their sums changes the last digits.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings.als_factors,
            regularization=settings.als_regularization,
            iterations=settings.als_iterations,
            use_gpu=False,
            num_threads=min(os.cpu_count() or 1, MAX_THREADS),
            random_state=settings.seed,
        )
        model.fit(positive.astype(np.float32), show_progress=False)
    return model.user_factors, model.item_factors


def bpr(positive: sparse.csr_matrix, settings: EvaluationSettings) -> tuple[np.ndarray, np.ndarray]:
    """Factors of users and items, float32 (users, k + 1) and (items, k + 1), whose products are the scores.

    From `implicit`; the last factor is the item's bias, and 1 for every user. Rendle et al., "BPR: Bayesian Personalized
    Ranking from Implicit Feedback", UAI 2009.
    """
    from implicit.bpr import BayesianPersonalizedRanking

    with threadpool_limits(1, "blas"):
        model = BayesianPersonalizedRanking(
            factors=settings.bpr_factors,
            learning_rate=settings.bpr_learning_rate,
            regularization=settings.bpr_regularization,
            iterations=settings.bpr_iterations,
            use_gpu=False,
            # Several threads write the same factors without locks, and no two runs would be the same.
            num_threads=1,
            random_state=settings.seed,
        )
        model.fit(positive.astype(np.float32), show_progress=False)
    return model.user_factors, model.item_factors


def _above_zero(scores: np.ndarray) -> np.ndarray:
    rounded = np.round(scores, SCORE_DECIMALS)
    return np.where(rounded > 0, rounded, -np.inf)
