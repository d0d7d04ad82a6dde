"""persona4rec: reviews in, an index of personas out, offline; ranking with reasons, online.

A listing of this package is the story of the data: reviews -> personas -> alignment -> encoder -> index -> evaluation
-> serving, standing on two ground floors, `generation` (the language model and its ledger) and `warehouse` (DuckDB).
Nothing is imported here: a server that only needs `persona4rec_pipeline.index` must not pay for Dagster, torch or vLLM.
"""

__version__ = "0.1.0"
