"""Prints the files under a folder that hold a text: in their bytes as they are, or in the values and the statistics of a
Parquet file, which lie there compressed. Prints nothing if there is none.

    search.py FOLDER TEXT
"""

import pathlib
import sys

import pyarrow.parquet


def parquet_texts(path):
    file = pyarrow.parquet.ParquetFile(path)
    yield str(file.schema_arrow)
    for group in range(file.num_row_groups):
        for row in file.read_row_group(group).to_pylist():
            yield repr(row)
        columns = file.metadata.row_group(group)
        for column in range(columns.num_columns):
            yield str(columns.column(column).statistics)


def holds(path, text):
    if text.encode() in path.read_bytes():
        return True
    return path.suffix == ".parquet" and any(text in part for part in parquet_texts(path))


folder, text = sys.argv[1:]
for path in sorted(pathlib.Path(folder).rglob("*")):
    if path.is_file() and holds(path, text):
        print(path.relative_to(folder))
