"""Prints what DuckDB makes of a query, one row a line, values apart by `|`: in the query, `lake` is the table.

    query.py LOCATION SQL
"""

import sys

from verify import connect_duckdb

location, sql = sys.argv[1:]
database = connect_duckdb(None)
database.execute(f"CREATE TEMP VIEW lake AS SELECT * FROM delta_scan('{location}')")
for row in database.execute(sql).fetchall():
    print("|".join("NULL" if value is None else str(value) for value in row))
