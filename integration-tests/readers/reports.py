"""Prints what lies in a report's folder of results, one JSON object for each run, after it has compared each file with
the hash that the run's manifest has of it.

    reports.py FOLDER
"""

import hashlib
import json
import pathlib
import sys

import duckdb


def rows(path):
    reader = "read_parquet" if path.suffix == ".parquet" else "read_csv"
    found = duckdb.connect().execute(f"SELECT COLUMNS(*)::VARCHAR FROM {reader}('{path}')")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row)) for row in found.fetchall()]


for folder in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
    files = {path.name: path for path in folder.iterdir()}
    told = {"run": folder.name, "manifest": None, "failed": "failed.json" in files, "rows": []}
    if "manifest.json" in files:
        manifest = json.loads(files.pop("manifest.json").read_text())
        files.pop("begun.json", None)
        for file in manifest["files"]:
            path = files.pop(file["name"])
            content = path.read_bytes()
            assert len(content) == file["bytes"] and hashlib.sha256(content).hexdigest() == file["sha256"], path
            told["rows"] += rows(path)
        assert not files, f"{folder} has files that no manifest names: {files}"
        assert len(told["rows"]) == manifest["rows"], folder
        assert hashlib.sha256(manifest["query"].encode()).hexdigest() == manifest["query_sha256"], folder
        told["manifest"] = manifest
    print(json.dumps(told))
