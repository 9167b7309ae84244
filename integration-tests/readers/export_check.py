"""Checks that the files of an export have the hashes of its manifest, and that there are no others; then prints the
LSN, and what DuckDB makes of two queries of it: of a table's files, and of the files of its history.

    export_check.py FOLDER QUERY HISTORY_QUERY

In a query FILES stands for the files.
"""

import hashlib
import json
import pathlib
import sys

import duckdb

folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
there = {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
for table in [*manifest["tables"].values(), *manifest["histories"].values()]:
    for file in table["files"]:
        content = (folder / file["path"]).read_bytes()
        assert len(content) == file["bytes"] and hashlib.sha256(content).hexdigest() == file["sha256"], file
        there.remove(file["path"])
assert not there, there

print(manifest["lsn"])
for (tables, query) in [("tables", sys.argv[2]), ("histories", sys.argv[3])]:
    (table,) = [name for name in manifest[tables] if name == "public.accounts"]
    files = [str(folder / file["path"]) for file in manifest[tables][table]["files"]]
    print(duckdb.connect().execute(query.replace("FILES", f"read_parquet({files})")).fetchone()[0])
