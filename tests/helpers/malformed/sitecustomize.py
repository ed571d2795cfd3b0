"""Loaded by a worker's interpreter through PYTHONPATH: one answer is not what the worker means.

$MALFORMED is JSON: `op` and either `reply`, the bytes (as latin-1) of a line in place of the reply,
or `rows`, the lines in place of the n-th row of the output. `ID` stands for the command's number.
"""

import json
import os
import sys

case = json.loads(os.environ["MALFORMED"])
dumps, loads = json.dumps, json.loads
command = {}
written = 0


def watched_loads(text, **options):
    found = loads(text, **options)
    if isinstance(found, dict) and "op" in found:
        command.update(found)
    return found


def malformed_dumps(message, **options):
    global written
    text = dumps(message, **options)
    if command.get("op") != case["op"]:
        return text
    if "ok" in message and "reply" in case:
        line = case["reply"].replace("ID", str(message["id"]))
        os.write(int(sys.argv[2]), line.encode("latin-1") + b"\n")
        return "{}"
    if "progress" not in message and "ok" not in message and "rows" in case:
        written += 1
        if written == case["at"]:
            return "\n".join(case["rows"])
    return text


json.dumps, json.loads = malformed_dumps, watched_loads
