"""Says how many of a Delta table's files DuckDB and Polars read for a query: two numbers, from their query plans."""

import re
import sys

import polars
import verify


def duckdb_files(path, condition):
    plan = verify.connect_duckdb(None).execute(f"EXPLAIN ANALYZE SELECT count(*) FROM delta_scan('{path}') WHERE {condition}")
    return int(re.search(r"Total Files Read: (\d+)", plan.fetchall()[0][1]).group(1))


def polars_files(path, condition):
    plan = polars.scan_delta(path).filter(polars.sql_expr(condition)).explain()
    listed = re.search(r"Parquet SCAN \[(.*?)\]", plan).group(1).split(", ")
    # Beyond the first, files are only counted: "... 2 other sources".
    others = [int(number) for number in re.findall(r"(\d+) other", listed[-1])]
    return len(listed) - len(others) + sum(others)


if __name__ == "__main__":
    print(duckdb_files(*sys.argv[1:]), polars_files(*sys.argv[1:]))
