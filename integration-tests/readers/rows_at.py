"""Prints the number of rows of a table with columns `id` and `v` at a version, and a sum that tells them from others.

    rows_at.py duckdb|polars|spark LOCATION VERSION
"""

import sys

reader, location, version = sys.argv[1], sys.argv[2], int(sys.argv[3])
SUMS = "count(*), sum(id), sum(CAST(id AS BIGINT) * v)"

if reader == "duckdb":
    from verify import connect_duckdb

    database = connect_duckdb(None)
    print(*database.sql(f"SELECT {SUMS} FROM delta_scan('{location}', version => {version})").fetchone())
elif reader == "polars":
    import polars

    rows = polars.read_delta(location, version=version)
    weighted = (rows["id"].cast(polars.Int64) * rows["v"].cast(polars.Int64)).sum()
    print(len(rows), rows["id"].cast(polars.Int64).sum(), weighted)
else:
    from spark_session import open_session

    session = open_session()
    print(*session.sql(f"SELECT {SUMS} FROM delta.`{location}` VERSION AS OF {version}").collect()[0])
