"""persona4rec: reviews in, an index of personas out, offline; ranking with reasons, online.

A listing of this package is the story of the data: reviews -> personas -> alignment -> encoder -> index -> evaluation
-> serving, standing on two ground floors, `generation` (the language model and its ledger) and `warehouse` (DuckDB).
Nothing is imported here: a server that only needs `persona4rec_pipeline.index` must not pay for Dagster, torch or vLLM.
"""

import os

# No library reports usage unless the user asks for it; each reads its own variable, most of them when imported.
for _variable, _off in {
    "DO_NOT_TRACK": "1",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "VLLM_NO_USAGE_STATS": "1",
}.items():
    os.environ.setdefault(_variable, _off)
# Threads that spin while they wait take the cores from the language model's process beside them: with two busy processes
# on two cores, training took four times as long. Read by OpenMP when torch is loaded, so it must be set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
