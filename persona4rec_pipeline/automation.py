"""When things run: the catalogue partitions, the jobs, the schedules and sensors.

Belongs here: partitions, jobs, schedules. Does not belong here: what an asset does. Jobs select assets by key, so that
this module imports no stage and every stage may import the partitions from here.
"""

from __future__ import annotations

import dagster as dg

# One partition per catalogue, named like it; `persona4rec add-catalog` registers them.
CATALOGS = dg.DynamicPartitionsDefinition(name="catalog")
