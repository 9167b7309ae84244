"""Changes the rows of a table's data files behind everybody's back: the log says nothing of it but other sizes.

    tamper.py TABLE PYTHON

PYTHON is an expression of `row`, a dictionary: the row to be stored in its place, a list of such, or None to leave it out.
"""

import json
import pathlib
import sys

import pyarrow
import pyarrow.parquet

table, expression = pathlib.Path(sys.argv[1]), sys.argv[2]
for entry in sorted((table / "_delta_log").glob("*.json")):
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        add = action.get("add")
        if add is None or not (table / add["path"]).exists():
            continue
        path = table / add["path"]
        before = pyarrow.parquet.read_table(path)
        rows = [eval(expression, {"row": row}) for row in before.to_pylist()]
        rows = [row for made in rows if made is not None for row in (made if isinstance(made, list) else [made])]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, before.schema), path, compression="snappy")
        add["size"] = path.stat().st_size
        add["stats"] = json.dumps({"numRecords": len(rows)})
    entry.write_text("".join(json.dumps(action) + "\n" for action in actions))
# Checkpoints have the former sizes, and the entries that they stand for are all there.
for checkpoint in [*(table / "_delta_log").glob("*.checkpoint*"), table / "_delta_log" / "_last_checkpoint"]:
    checkpoint.unlink(missing_ok=True)
