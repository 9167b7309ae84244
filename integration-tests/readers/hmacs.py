"""Prints the HMAC-SHA-256 of each text of a JSON array on standard input by a key, one a line; NULL of null.

    hmacs.py KEY
"""

import hmac
import json
import sys

key = sys.argv[1].encode()
for text in json.load(sys.stdin):
    print("NULL" if text is None else hmac.new(key, text.encode(), "sha256").hexdigest())
