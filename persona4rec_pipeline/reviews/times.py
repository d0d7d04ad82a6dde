"""Times of every source as UTC TIMESTAMP, in SQL.

Belongs here: the macro `utc_time` and what it understands. Does not belong here: which column holds a time.
"""

from __future__ import annotations

import duckdb

# A date, optionally a time (1: date, 2: time, 3: offset or zone).
_ISO = (
    r"^(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?) ?(Z|z|UTC|GMT|[+-](?:0\d|1[0-8])(?::?[0-5]\d)?)?)?$"
)
# `Sun Jul 30 07:44:10 -0700 2017` (1: month, 2: day, 3: time, 4: offset, 5: year).
_GOODREADS_TIME = r"^[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d{1,2}) (\d{2}:\d{2}:\d{2}) ([+-](?:0\d|1[0-8])[0-5]\d) (\d{4})$"
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"


def create_time_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """`utc_time(text, unit)`: seconds, milliseconds, ISO 8601 or Goodreads time as UTC TIMESTAMP; NULL if none.

    Offsets are subtracted here: without the ICU extension a cast to TIMESTAMP ignores them without a word. A number in
    unit `auto` is taken by its magnitude: below 1e11 seconds (to the year 5138), below 1e14 milliseconds (from 1973),
    below 1e17 microseconds, else nanoseconds. Years 1 to 9999 are accepted.
    """
    connection.execute(f"""
        CREATE TEMP MACRO offset_of(zone) AS CASE WHEN zone[1] IN ('+', '-') THEN to_minutes(CAST(
            (CASE zone[1] WHEN '-' THEN -1 ELSE 1 END)
            * (CAST(zone[2:3] AS INTEGER) * 60
               + COALESCE(CAST(NULLIF(replace(zone[4:], ':', ''), '') AS INTEGER), 0)) AS INTEGER))
            ELSE to_minutes(0) END;
        CREATE TEMP MACRO iso_time(value) AS
            TRY_CAST(regexp_extract(value, '{_ISO}', 1) || ' '
                || replace(COALESCE(NULLIF(regexp_extract(value, '{_ISO}', 2), ''), '00:00'), ',', '.') AS TIMESTAMP)
            - offset_of(regexp_extract(value, '{_ISO}', 3));
        CREATE TEMP MACRO goodreads_time(value) AS
            try_strptime(
                concat_ws(' ',
                    regexp_extract(value, '{_GOODREADS_TIME}', 1), regexp_extract(value, '{_GOODREADS_TIME}', 2),
                    regexp_extract(value, '{_GOODREADS_TIME}', 5), regexp_extract(value, '{_GOODREADS_TIME}', 3)),
                '%b %d %Y %H:%M:%S')
            - offset_of(regexp_extract(value, '{_GOODREADS_TIME}', 4));
        CREATE TEMP MACRO microseconds(number, unit) AS number * CASE
            WHEN unit = 's' THEN 1e6 WHEN unit = 'ms' THEN 1e3
            WHEN abs(number) < 1e11 THEN 1e6 WHEN abs(number) < 1e14 THEN 1e3
            WHEN abs(number) < 1e17 THEN 1 ELSE 1e-3 END;
        CREATE TEMP MACRO number_time(number, unit) AS
            CASE WHEN microseconds(number, unit) BETWEEN -62135596800e6 AND 253402300799e6
            THEN make_timestamp(CAST(round(microseconds(number, unit)) AS BIGINT)) END;
        CREATE TEMP MACRO sensible(moment) AS
            CASE WHEN moment BETWEEN TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999' THEN moment END;
        CREATE TEMP MACRO utc_time(value, unit) AS CASE
            WHEN regexp_matches(value, '{_NUMBER}') THEN number_time(TRY_CAST(value AS DOUBLE), unit)
            WHEN regexp_matches(value, '{_ISO}') THEN sensible(iso_time(value))
            WHEN regexp_matches(value, '{_GOODREADS_TIME}') THEN sensible(goodreads_time(value)) END;
    """)
