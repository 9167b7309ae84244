"""deltalake's MERGE of random updates into a table: prints the seconds for 1,000 and for 100,000 of them."""

import random
import sys
import time

import pyarrow
from deltalake import DeltaTable, write_deltalake

path, rows = sys.argv[1], int(sys.argv[2])


def batch(ids, shift):
    columns = {
        "id": pyarrow.array(ids, pyarrow.int64()),
        "value": pyarrow.array([i * 7 + shift for i in ids], pyarrow.int64()),
        "text": pyarrow.array([f"text of the row {i}" for i in ids]),
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
