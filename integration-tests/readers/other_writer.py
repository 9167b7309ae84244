"""Another writer of a lake table: does to it what people do, by delta-rs, or by hand where that cannot.

    other_writer.py FOLDER OPERATION
"""

import json
import sys
from pathlib import Path

import pyarrow
from deltalake import DeltaTable


def append_entry(folder: str, *actions: dict) -> None:
    """Puts an entry at the end of the log."""
    log = Path(folder) / "_delta_log"
    last = max(int(path.stem) for path in log.glob("*.json") if path.stem.isdigit())
    info = {"commitInfo": {"operation": "BY HAND", "timestamp": 0}}
    text = "\n".join(json.dumps(action) for action in (info, *actions))
    (log / f"{last + 1:020}.json").write_text(text + "\n")


def metadata(folder: str) -> dict:
    """The table's last metaData action."""
    log = Path(folder) / "_delta_log"
    actions = [json.loads(line) for path in sorted(log.glob("*.json")) for line in path.read_text().splitlines()]
    return [action["metaData"] for action in actions if "metaData" in action][-1]


def delete(folder: str) -> None:
    """Rewrites the table without some rows, as a DELETE does that knows no deletion vectors."""
    remove_all(folder, keep=lambda row: row["id"] % 2 == 0)


def overwrite(folder: str) -> None:
    """Replaces all rows."""
    remove_all(folder, keep=lambda row: row["id"] == 3)


def rows_of(folder: str) -> list[dict]:
    import polars

    return polars.read_delta(folder).to_dicts()


def remove_all(folder: str, keep) -> None:
    """Replaces all files by one that has the rows to keep."""
    import pyarrow.parquet

    table = DeltaTable(folder)
    kept = [row for row in rows_of(folder) if keep(row)]
    written = Path(folder) / f"other-{table.version()}.parquet"
    columns = pyarrow.schema([pyarrow.field("id", pyarrow.int32(), False), pyarrow.field("v", pyarrow.string())])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept, columns), written)
    add_and_remove(folder, written, len(kept), data_change=True)


def live_files(folder: str) -> dict[str, dict]:
    log = Path(folder) / "_delta_log"
    live: dict[str, dict] = {}
    for path in sorted(log.glob("*.json")):
        actions = [json.loads(line) for line in path.read_text().splitlines()]
        for action in actions:
            if "remove" in action:
                live.pop(action["remove"]["path"], None)
        for action in actions:
            if "add" in action:
                live[action["add"]["path"]] = action["add"]
    return live


def removals(folder: str, data_change: bool) -> list[dict]:
    """Remove actions of all live files."""
    removes = []
    for path, add in live_files(folder).items():
        remove = {"path": path, "deletionTimestamp": 0, "dataChange": data_change}
        if "deletionVector" in add:
            remove["deletionVector"] = add["deletionVector"]
        removes.append({"remove": remove})
    return removes


def add_and_remove(folder: str, written: Path, rows: int, data_change: bool) -> None:
    add = {
        "path": written.name,
        "partitionValues": {},
        "size": written.stat().st_size,
        "modificationTime": 0,
        "dataChange": data_change,
        "stats": json.dumps({"numRecords": rows}),
    }
    append_entry(folder, *removals(folder, data_change), {"add": add})


def optimize(folder: str) -> None:
    """Puts all rows into one file, without changing any."""
    import pyarrow.parquet

    table = DeltaTable(folder)
    rows = rows_of(folder)
    written = Path(folder) / f"compact-{table.version()}.parquet"
    columns = pyarrow.schema([pyarrow.field("id", pyarrow.int32(), False), pyarrow.field("v", pyarrow.string())])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, columns), written)
    add_and_remove(folder, written, len(rows), data_change=False)


def restore(folder: str) -> None:
    """Makes the first version the newest one, as RESTORE does: all files of now go, those of then come back."""
    first = Path(folder) / "_delta_log" / f"{0:020}.json"
    adds = [json.loads(line)["add"] for line in first.read_text().splitlines() if '"add"' in line]
    append_entry(folder, *removals(folder, data_change=True), *({"add": add} for add in adds))


def odd_column(folder: str) -> None:
    """Adds a column of a type that events do not have."""
    changed = metadata(folder)
    schema = json.loads(changed["schemaString"])
    schema["fields"].append({"name": "odd", "type": "byte", "nullable": True, "metadata": {}})
    append_entry(folder, {"metaData": changed | {"schemaString": json.dumps(schema)}})


def constraint(folder: str) -> None:
    """Adds a CHECK constraint, which is a feature that its writers have to know."""
    changed = metadata(folder)
    configuration = changed["configuration"] | {"delta.constraints.positive": "id > 0"}
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors", "timestampNtz"],
        "writerFeatures": ["deletionVectors", "timestampNtz", "invariants", "checkConstraints"],
    }
    append_entry(folder, {"protocol": protocol}, {"metaData": changed | {"configuration": configuration}})


def append_only(folder: str) -> None:
    """Forbids that rows are changed."""
    changed = metadata(folder)
    append_entry(folder, {"metaData": changed | {"configuration": changed["configuration"] | {"delta.appendOnly": "true"}}})


if __name__ == "__main__":
    folder, operation = sys.argv[1:]
    {
        "delete": delete,
        "overwrite": overwrite,
        "optimize": optimize,
        "restore": restore,
        "odd-column": odd_column,
        "constraint": constraint,
        "append-only": append_only,
    }[operation](folder)
