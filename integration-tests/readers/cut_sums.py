"""Prints the sum of `amount` and the number of rows of tables as of versions, a line for each.

    cut_sums.py deltalake|duckdb|spark URL=VERSION …
"""

import sys

reader, *tables = sys.argv[1:]


def by_deltalake(path, version):
    import polars

    frame = polars.scan_delta(path, version=version).select(polars.col("amount").sum(), polars.len()).collect()
    return frame.row(0)


def by_duckdb(path, version):
    from verify import connect_duckdb

    database = connect_duckdb(None)
    database.execute(f"ATTACH '{path}' AS cut (TYPE delta, VERSION {version})")
    return database.execute("SELECT sum(amount), count(*) FROM cut").fetchone()


def by_spark(path, version):
    from spark_session import session

    row = session().sql(f"SELECT sum(amount), count(*) FROM delta.`{path}` VERSION AS OF {version}").collect()[0]
    return row[0], row[1]


for table in tables:
    url, version = table.rsplit("=", 1)
    total, rows = {"deltalake": by_deltalake, "duckdb": by_duckdb, "spark": by_spark}[reader](
        url.removeprefix("file://").rstrip("/"), int(version)
    )
    print(total, rows)
