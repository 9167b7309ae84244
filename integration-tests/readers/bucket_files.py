"""Writes every object of a bucket to a folder, under its key. Fails if the bucket has uploads that never ended.

    bucket_files.py ENDPOINT BUCKET FOLDER
"""

import pathlib
import sys

import boto3

endpoint, bucket, folder = sys.argv[1:]
client = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
)
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
    for entry in page.get("Contents", []):
        path = pathlib.Path(folder, entry["Key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, entry["Key"], str(path))
assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads"), "uploads that never ended hold bytes, too"
