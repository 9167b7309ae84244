"""deltalake's MERGE of random updates into a table: prints the seconds for 1,000 and for 100,000 of them."""

import random
import sys
import time

import pyarrow
import pyarrow.compute
from deltalake import DeltaTable, write_deltalake

path, rows = sys.argv[1], int(sys.argv[2])


def batch(ids, shift):
    customers = [(i * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 40 for i in ids]
    placed = [f"2026-01-{1 + i % 28:02} {i % 24:02}:{i % 60:02}:{i * 7 % 60:02}" for i in ids]
    columns = {
        "id": pyarrow.array(ids, pyarrow.int64()),
        "customer": pyarrow.array(customers, pyarrow.int64()),
        "amount": pyarrow.array([(i * 7 + shift) / 100 for i in ids], pyarrow.float64()),
        "state": pyarrow.array([["new", "paid", "shipped", "returned"][i % 4] for i in ids]),
        "placed": pyarrow.compute.strptime(pyarrow.array(placed), "%Y-%m-%d %H:%M:%S", "us"),
        "note": pyarrow.array([f"order {i}, {customer:x}" for i, customer in zip(ids, customers)]),
    }
    return pyarrow.table(columns)


for start in range(0, rows, 1_000_000):
    write_deltalake(path, batch(range(start, min(start + 1_000_000, rows)), 0), mode="append")
chance = random.Random(1)
for updates in [1_000, 100_000]:
    source = batch(chance.sample(range(rows), updates), 1)
    started = time.monotonic()
    merge = DeltaTable(path).merge(source, "target.id = source.id", source_alias="source", target_alias="target")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()
    print(time.monotonic() - started)
