"""Prints the sum of `amount` and the number of rows of tables of a cut, a line for each. The input is what `sooner cut sql`
prints for the engine.

    cut_sums.py polars|duckdb|spark VIEW …
"""

import sys

reader, *views = sys.argv[1:]
printed = sys.stdin.read()


def by_polars():
    import polars

    frames = {}
    exec(printed)
    sums = (polars.col("amount").sum(), polars.len())
    return [frames[view].select(*sums).collect().row(0) for view in views]


def by_duckdb():
    from verify import connect_duckdb

    database = connect_duckdb(None)
    database.execute(printed)
    return [database.execute(f'SELECT sum(amount), count(*) FROM "{view}"').fetchone() for view in views]


def by_spark():
    from spark_session import open_session

    session = open_session()
    for statement in filter(str.strip, printed.split(";\n")):
        session.sql(statement)
    return [session.sql(f"SELECT sum(amount), count(*) FROM `{view}`").collect()[0] for view in views]


for total, rows in {"polars": by_polars, "duckdb": by_duckdb, "spark": by_spark}[reader]():
    print(total, rows)
