"""Compares lake tables with Postgres, every row of every table, through an independent reader.

The reader (DuckDB, Polars or Spark) hands the lake's rows over; Postgres' rows come by COPY. DuckDB then takes each set
from the other, with duplicates counted. Exit code 0 only if nothing is left on either side. Rows of the lake that have a
time in `_deleted_at` are left out: those are rows that the source has deleted.
"""

import argparse
import os
import pathlib
import string
import sys
import tempfile

import duckdb
import psycopg

DELETED = "_deleted_at"
STACK = pathlib.Path(__file__).resolve().parents[2] / ".stack"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", required=True, help="postgres://user@host:port/database")
    parser.add_argument("--lake", required=True, help="folder or s3://bucket/prefix")
    parser.add_argument("--reader", default="duckdb", choices=["duckdb", "polars", "spark"])
    parser.add_argument("--s3-endpoint", help="host:port of an S3 server without TLS")
    parser.add_argument("--quiet", action="store_true", help="print differences only")
    parser.add_argument("tables", nargs="+", help="schema.table")
    return parser.parse_args()


def connect_duckdb(s3_endpoint):
    database = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    site = pathlib.Path(duckdb.__file__).parents[1]
    for extension in ["httpfs", "delta"]:
        folder = site / f"duckdb_extension_{extension}" / "extensions"
        database.execute(f"LOAD '{next(folder.glob(f'*/{extension}.duckdb_extension'))}'")
    database.execute("SET TimeZone = 'UTC'")
    if s3_endpoint:
        database.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', "
            f"SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}', ENDPOINT '{s3_endpoint}', "
            "REGION 'us-east-1', USE_SSL false, URL_STYLE 'path')"
        )
    return database


class DuckDbReader:
    def __init__(self, database, options):
        self.database = database

    def load(self, path):
        self.database.execute(f"CREATE OR REPLACE TEMP TABLE lake AS SELECT * FROM delta_scan('{path}')")


class PolarsReader:
    def __init__(self, database, options):
        self.database = database
        self.storage = None
        if options.s3_endpoint:
            self.storage = {
                "AWS_ENDPOINT_URL": f"http://{options.s3_endpoint}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
                "AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
            }

    def load(self, path):
        import polars

        rows = polars.scan_delta(path, storage_options=self.storage).collect().to_arrow()
        self.database.register("rows", rows)
        self.database.execute("CREATE OR REPLACE TEMP TABLE lake AS SELECT * FROM rows")


class SparkReader:
    def __init__(self, database, options):
        sys.path.insert(0, str(pathlib.Path(__file__).parent))
        from spark_session import open_session

        self.database = database
        self.session = open_session()

    def load(self, path):
        rows = self.session.read.format("delta").load(str(path)).toArrow()
        self.database.register("rows", rows)
        self.database.execute("CREATE OR REPLACE TEMP TABLE lake AS SELECT * FROM rows")


def postgres_columns(postgres, table):
    """Name, type and number of each column, and whether it is generated."""
    return postgres.execute(
        "SELECT attname, format_type(atttypid, -1), attnum, attgenerated <> '' FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [".".join(quoted(part) for part in table.split(".", 1))],
    ).fetchall()


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def both_sides(name, shown, lake_type):
    """How a column is written by Postgres, how by DuckDB, and as which type both are compared."""
    source, lake, kind = expressions(lake_type)
    return source.format(quoted(name)), lake.format(quoted(shown)), kind


def expressions(lake_type):
    """The same with {} for the column."""
    if lake_type == "BLOB":
        return "encode({}, 'hex')", "lower(hex({}))", "VARCHAR"
    if lake_type.endswith("[]"):
        return "array_to_json({}::text[])::text", "to_json({}::VARCHAR[])::VARCHAR", "VARCHAR"
    # As numbers, because the text of years before 1 and after 9999 is not the same everywhere.
    if lake_type.startswith("TIMESTAMP"):
        return "(extract(epoch FROM {}) * 1000000)::bigint", "epoch_us({})", "BIGINT"
    if lake_type == "DATE":
        return "{} - date '1970-01-01'", "{} - DATE '1970-01-01'", "BIGINT"
    return "{}", "{}", lake_type


def load_postgres(postgres, database, table, columns):
    path = pathlib.Path(tempfile.mkdtemp()) / "rows.csv"
    source = ", ".join(f"{expression} AS {quoted(name)}" for name, (expression, _, _) in columns.items())
    schema, name = table.split(".", 1)
    relation = f"{quoted(schema)}.{quoted(name)}"
    (kind,) = postgres.execute("SELECT relkind FROM pg_class WHERE oid = %s::regclass", [relation]).fetchone()
    only = "" if kind == "p" else "ONLY"
    query = f"COPY (SELECT {source} FROM {only} {relation}) TO STDOUT (FORMAT csv, NULL '\\N')"
    with open(path, "wb") as file, postgres.cursor().copy(query) as copy:
        for block in copy:
            file.write(block)
    types = ", ".join(f"{text(name)}: {text(kind)}" for name, (_, _, kind) in columns.items())
    database.execute(
        f"CREATE OR REPLACE TEMP TABLE source AS SELECT * FROM read_csv('{path}', header=false, columns={{{types}}}, "
        "nullstr='\\N', allow_quoted_nulls=false, quote='\"', escape='\"', delim=',', auto_detect=false, "
        "max_line_size=64000000, buffer_size=256000000, parallel=false)"
    )
    path.unlink()
    path.parent.rmdir()


def text(value):
    return "'" + value.replace("'", "''") + "'"


def folder_name(name):
    """The folder of a schema or a table: letters and digits of ASCII, and inside a name `_` and `.`, are themselves."""
    plain = string.ascii_letters + string.digits
    stays = [chr(byte) in plain or position > 0 and chr(byte) in "_." for position, byte in enumerate(name.encode())]
    return "".join(chr(byte) if stay else f"-{byte:02X}" for byte, stay in zip(name.encode(), stays))


def shown_names(columns):
    """By source name, the lake's: of those that differ in capitals only, all but the first are told by their number."""
    taken, shown = set(), {}
    first = {name.lower(): name for name, _ in reversed(columns)}
    taken.update(first)
    for name, number in columns:
        shown[name] = name
        while first[name.lower()] != name and shown[name].lower() in taken:
            shown[name] += f"_{number}"
        taken.add(shown[name].lower())
    return shown


def compare(postgres, database, reader, lake, table):
    reader.load("/".join([lake, *map(folder_name, table.split(".", 1))]))
    lake_types = {row[0]: row[1] for row in database.execute("DESCRIBE lake").fetchall()}
    all_columns = postgres_columns(postgres, table)
    if DELETED in lake_types and DELETED not in [name for name, *_ in all_columns]:
        database.execute(f"DELETE FROM lake WHERE {DELETED} IS NOT NULL")
        del lake_types[DELETED]
    # Generated columns are not always sent.
    sent = [column for column in all_columns if not column[3] or column[0] in lake_types]
    shown = shown_names([(name, number) for name, _, number, _ in sent])
    if list(shown.values()) != list(lake_types):
        return 0, f"columns differ: Postgres has {list(shown)}, the lake has {list(lake_types)}"
    columns = {shown[name]: both_sides(name, shown[name], lake_types[shown[name]]) for name, *_ in sent}
    load_postgres(postgres, database, table, columns)
    lake_row = ", ".join(f"CAST({expression} AS {kind})" for _, expression, kind in columns.values())
    missing = f"(SELECT * FROM source EXCEPT ALL SELECT {lake_row} FROM lake)"
    surplus = f"(SELECT {lake_row} FROM lake EXCEPT ALL SELECT * FROM source)"
    rows, lacking, extra = database.execute(
        f"SELECT (SELECT count(*) FROM source), (SELECT count(*) FROM {missing}), (SELECT count(*) FROM {surplus})"
    ).fetchone()
    if lacking or extra:
        samples = [shortened(database.execute(f"FROM {rows_of} LIMIT 3").fetchall()) for rows_of in (missing, surplus)]
        return rows, f"{lacking} rows only in Postgres, {extra} only in the lake, such as {samples}"
    return rows, None


def shortened(rows):
    return [tuple(str(value)[:40] for value in row) for row in rows]


def main():
    options = arguments()
    database = connect_duckdb(options.s3_endpoint)
    reader = {"duckdb": DuckDbReader, "polars": PolarsReader, "spark": SparkReader}[options.reader](database, options)
    wrong = 0
    with psycopg.connect(options.postgres, options="-c timezone=UTC -c extra_float_digits=3") as postgres:
        for table in options.tables:
            rows, difference = compare(postgres, database, reader, options.lake.rstrip("/"), table)
            wrong += difference is not None
            if difference:
                print(f"DIFFERS  {table}: {difference}")
            elif not options.quiet:
                print(f"equal    {table}: {rows:,} rows, read by {options.reader}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
