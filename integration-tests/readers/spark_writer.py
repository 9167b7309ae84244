"""A foreign writer beside the pipeline: optimizes a table again and again, and appends rows with the keys given."""

import argparse

from spark_session import open_session

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--table", required=True)
parser.add_argument("--optimize", type=int, default=0, help="how often")
parser.add_argument("--append", nargs="*", default=[], help="rows, each as the SQL of its values")
options = parser.parse_args()

session = open_session()
print("ready", flush=True)
done = 0
for _ in range(options.optimize):
    try:
        session.sql(f"OPTIMIZE delta.`{options.table}`")
        done += 1
    except Exception as error:
        # The pipeline may well be faster; then Delta tells Spark so, and nothing has happened.
        if "Concurrent" not in str(error) and "CONCURRENT" not in str(error):
            raise
for row in options.append:
    session.sql(f"INSERT INTO delta.`{options.table}` VALUES ({row})")
print(f"optimized {done}", flush=True)
