"""Other writers beside the pipeline: Spark and deltalake do to tables of a lake what people do, each operation at least
once, and all of them again and again for some time. What fails because somebody else has committed is not tried again.
Prints, as JSON, how often each operation was done.

    foreign_storm.py LAKE SECONDS SEED
"""

import json
import random
import sys
import time

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from spark_session import open_session

lake, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
session = open_session()


def location(table: str) -> str:
    return f"{lake}/public/{table}"


def spark(statement: str) -> None:
    session.sql(statement).collect()


def restore(table: str) -> None:
    versions = [row.version for row in session.sql(f"DESCRIBE HISTORY {table} LIMIT 20").collect()]
    spark(f"RESTORE TABLE {table} TO VERSION AS OF {chance.choice(versions)}")


def merge(table: str) -> None:
    spark(
        f"MERGE INTO {table} AS t USING (SELECT * FROM {table} WHERE id % 50 = {chance.randrange(50)}) AS s "
        "ON t.id = s.id WHEN MATCHED AND s.id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET note = 'merged'"
    )


def by_spark(table: str) -> dict:
    some = f"id % 100 = {chance.randrange(100)}"
    return {
        "optimize": lambda: spark(f"OPTIMIZE {table}"),
        "zorder": lambda: spark(f"OPTIMIZE {table} ZORDER BY (balance)"),
        "vacuum": lambda: spark(f"VACUUM {table}"),
        "append": lambda: spark(f"INSERT INTO {table} VALUES ({next(appended)}, 'foreign', 1.00, NULL)"),
        "delete": lambda: spark(f"DELETE FROM {table} WHERE {some}"),
        "update": lambda: spark(f"UPDATE {table} SET note = 'foreign' WHERE {some}"),
        "merge": lambda: merge(table),
        "restore": lambda: restore(table),
        "alter": lambda: spark(f"ALTER TABLE {table} SET TBLPROPERTIES ('team' = 'data {chance.random()}')"),
    }


def by_deltalake(table: str) -> dict:
    opened = DeltaTable(location(table))
    return {
        "optimize": lambda: opened.optimize.compact(),
        "zorder": lambda: opened.optimize.z_order(["version"]),
        "vacuum": lambda: opened.vacuum(dry_run=False),
        "delete": lambda: opened.delete(f"id % 100 = {chance.randrange(100)}"),
    }


def attempt(writer: str, name: str, operations: dict, done: dict) -> None:
    count = done.setdefault(f"{writer}: {name}", {"done": 0, "refused": 0})
    try:
        operations[name]()
        count["done"] += 1
    except (DeltaError, PySparkException, Py4JError, OSError) as error:
        count["refused"] += 1
        count["error"] = " ".join(str(error).split())[:300]


appended = iter(range(10_000_000, 10_001_000))
ends = time.monotonic() + seconds
done: dict = {}
while time.monotonic() < ends or not done:
    spark_operations = by_spark(f"delta.`{location('accounts')}`")
    deltalake_operations = sorted(by_deltalake("documents"))
    for number, name in enumerate(chance.sample(sorted(spark_operations), len(spark_operations))):
        attempt("spark", name, spark_operations, done)
        other = deltalake_operations[number % len(deltalake_operations)]
        attempt("deltalake", other, by_deltalake("documents"), done)
print(json.dumps(done))
