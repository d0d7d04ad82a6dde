"""Ground floor: DuckDB. Schema, transactions, locks.

Belongs here: opening the database, one writer at a time, replacing a partition in one transaction, content versions.
Does not belong here: any query that knows what a column means; those stand with the stage that asks.
"""

from persona4rec_pipeline.warehouse.database import Database, WarehouseBusy, open_ledger_database, open_warehouse
from persona4rec_pipeline.warehouse.partitions import replace_changed_rows, would_change

__all__ = [
    "Database",
    "WarehouseBusy",
    "open_ledger_database",
    "open_warehouse",
    "replace_changed_rows",
    "would_change",
]
