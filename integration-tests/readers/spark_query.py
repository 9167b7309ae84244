"""Prints what Spark makes of queries, which stand in the input as a JSON list: a line for each, its rows apart by `;` and
their values by `|`.
"""

import json
import sys

from spark_session import open_session

session = open_session()
for sql in json.load(sys.stdin):
    rows = session.sql(sql).collect()
    print(";".join("|".join("NULL" if value is None else str(value) for value in row) for row in rows), flush=True)
