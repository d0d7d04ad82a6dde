"""Step 7: the index over HTTP.

Belongs here: requests in, answers of the index out, a newly published generation picked up while running. Does not
belong here: how an answer is computed (`index/`), anything that needs Dagster, DuckDB, torch or MLflow: a server starts
in seconds and reads files.
"""
