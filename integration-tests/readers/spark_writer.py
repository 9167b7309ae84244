"""A foreign writer beside the pipeline. Does what each line of its input says, one after the other: `optimize`, or
`append` with the SQL of a row's values; and answers each with `done`."""

import argparse
import sys

from spark_session import open_session

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--table", required=True)
options = parser.parse_args()

session = open_session()
print("done", flush=True)
for line in sys.stdin:
    what, _, row = line.strip().partition(" ")
    if what == "optimize":
        # It rewrites files in any case, where a plain OPTIMIZE may find nothing to do.
        session.sql(f"OPTIMIZE delta.`{options.table}` ZORDER BY (id)")
    elif what == "append":
        session.sql(f"INSERT INTO delta.`{options.table}` VALUES ({row})")
    else:
        raise ValueError(f"not a command: {line!r}")
    print("done", flush=True)
