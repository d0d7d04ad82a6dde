"""Step 6: is the ranking by personas any good? Candidates, metrics and the report on the held-out panel.

Belongs here: the collaborative filters that propose candidates, hit rate, MRR and NDCG, what a ranking exposes of the
catalogue, intervals and tests, segments of the panel, the rows of the report. Does not belong here: user profile and
score (`index/scoring.py`), the wording of encoded texts (`encoder/texts.py`), deciding what is held out (`reviews/`).
"""
