"""Prints the sum of `amount` and the number of rows of tables of a cut, a line for each. The input is what `sooner cut sql`
prints for the engine.

    cut_sums.py polars|duckdb|spark|trino VIEW …

Trino finds the pipeline's tables in its catalog; the environment's LAKE says where the lake is.
"""

import os
import re
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


def by_trino():
    from trino_server import trino

    found = {}
    with trino() as server:
        server.rows("CREATE SCHEMA public")
        for statement in filter(None, map(str.strip, re.split(r";\s", printed + "\n"))):
            if not statement.startswith("SELECT"):
                server.rows(statement)
                continue
            schema, table = re.search(r'FROM "(\w+)"."(\w+)"', statement).groups()
            if " FOR VERSION " in statement:
                folder = table.removesuffix("_history") + "-history" * table.endswith("_history")
                place = f"file://{os.environ['LAKE']}/{schema}/{folder}"
                names = f"schema_name => '{schema}', table_name => '{table}'"
                server.rows(f"CALL system.register_table({names}, table_location => '{place}')")
            view = table if table.startswith(f"{schema}_") else f"{schema}_{table}"
            if view in views:
                found[view] = server.rows(f"SELECT sum(amount), count(*) FROM ({statement})")[0]
    return [found[view] for view in views]


for total, rows in {"polars": by_polars, "duckdb": by_duckdb, "spark": by_spark, "trino": by_trino}[reader]():
    print(total, rows)
