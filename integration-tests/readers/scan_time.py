"""How long DuckDB, Polars and Spark take to read two columns of all rows of a table: milliseconds of each, the best of
seven, as they have it open or open it.

    scan_time.py TABLE
"""

import sys
import time

import polars
import verify
from spark_session import open_session

RUNS = 7


def best(scan):
    times = []
    for _ in range(RUNS):
        started = time.monotonic()
        scan()
        times.append(time.monotonic() - started)
    return min(times) * 1000


path = sys.argv[1]
duckdb = verify.connect_duckdb(None)
session = open_session()
print(
    best(lambda: duckdb.execute(f"SELECT sum(amount), max(placed) FROM delta_scan('{path}')").fetchall()),
    best(lambda: polars.scan_delta(path).select(polars.sum("amount"), polars.max("placed")).collect()),
    best(lambda: session.sql(f"SELECT sum(amount), max(placed) FROM delta.`{path}`").collect()),
)
