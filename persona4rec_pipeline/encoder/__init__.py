"""Step 4: alignment pairs in, a trained and registered encoder out; and the vectors that it makes.

`texts.py` words what the encoder reads, for every step; `pairs.py` and
`training.py` fine-tune; `vectors.py` keeps the tables of vectors in step with texts and encoder; `assets.py` is all that
knows Dagster. Does not belong here: profiles and scores (`index/scoring.py`), the judge (`alignment/`), promotion by
evaluation (`evaluation/`).
"""
