"""Spark's MERGE of random updates into a table with deletion vectors: prints the seconds for
1,000, which pay for what Spark loads, for 1,000 again, and for 100,000."""

import random
import sys
import time

from spark_session import open_session

path, rows = sys.argv[1], int(sys.argv[2])
session = open_session()
COLUMNS = """id, shiftright(id * 40503, 8) AS customer, CAST((id * 7 + {shift}) AS DOUBLE) / 100 AS amount,
    element_at(array('new', 'paid', 'shipped', 'returned'), CAST(id % 4 + 1 AS INT)) AS state,
    CAST(timestamp_micros(1767225600000000 + id * 1000000) AS TIMESTAMP_NTZ) AS placed,
    concat('order ', id) AS note"""

session.range(rows).createOrReplaceTempView("ids")
session.sql(
    f"CREATE TABLE delta.`{path}` USING delta TBLPROPERTIES ('delta.enableDeletionVectors' = 'true') "
    f"AS SELECT {COLUMNS.format(shift=0)} FROM ids"
)
chance = random.Random(1)
for updates in [1_000, 1_000, 100_000]:
    chosen = [(number,) for number in chance.sample(range(rows), updates)]
    session.createDataFrame(chosen, "id BIGINT").createOrReplaceTempView("chosen")
    session.sql(f"SELECT {COLUMNS.format(shift=1)} FROM chosen").createOrReplaceTempView("changed")
    started = time.monotonic()
    session.sql(
        f"MERGE INTO delta.`{path}` AS target USING changed AS source ON target.id = source.id "
        "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    ).collect()
    print(time.monotonic() - started)
