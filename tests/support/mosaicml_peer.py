"""The real mosaicml-streaming, in a Python of its own that tests/run.sh makes: does what it is told on stdin, as JSON.

``{"write": FOLDER, "columns": ..., "samples": [...], ...}`` writes shards, ``{"read": FOLDER, "hash": ...}`` answers
with all samples, ``{"merge": FOLDER}`` merges the indexes below. An answer is a line of JSON.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

for unused in ("vision", "multimodal", "text"):  # they need torchvision
    sys.modules[f"streaming.{unused}"] = types.ModuleType(unused)

import numpy as np  # noqa: E402
import streaming  # noqa: E402
from streaming.base.util import merge_index  # noqa: E402


def value_of(value: Any, encoding: str, dtype: str) -> Any:
    if encoding.startswith("ndarray"):
        named = encoding.split(":")
        return np.array(value, named[1] if len(named) > 1 else dtype)
    return np.array(value, dtype).tobytes() if encoding == "bytes" else value


def do(order: dict[str, Any]) -> Any:
    if "write" in order:
        columns, dtype = order["columns"], order.get("dtype", "int64")
        options = {name: order[name] for name in ("compression", "hashes", "size_limit") if name in order}
        with streaming.MDSWriter(out=order["write"], columns=columns, **options) as writer:
            for sample in order["samples"]:
                writer.write({name: value_of(sample[name], columns[name], dtype) for name in columns})
        return None
    if "merge" in order:
        merge_index(order["merge"])
        return None
    dataset = streaming.StreamingDataset(local=order["read"], shuffle=False, batch_size=1, validate_hash=order["hash"])
    samples = [dataset[number] for number in range(len(dataset))]
    return [{"id": each["id"], "input_ids": each["input_ids"].tolist(), "len": each["len"]} for each in samples]


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line))), file=answers, flush=True)
