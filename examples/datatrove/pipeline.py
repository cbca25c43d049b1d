"""Raw text to a token store with datatrove: language identification, Gopher's quality filter, MinHash, tokenization.

    python examples/datatrove/pipeline.py CORPUS --tokenizer DIR --output OUT [--tasks 4] [--slurm PARTITION]

CORPUS is a folder of ``.jsonl`` files of any languages; ``OUT/store`` is the store. Without ``--slurm`` the tasks run
here. The command, run again, goes on where it stopped: tasks that are done have a mark in ``OUT/logs``.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2, help="tasks at a time, without Slurm")
    parser.add_argument("--slurm", metavar="PARTITION", help="submit to this partition")
    parser.add_argument("--memory-gb", type=int, default=4, help="of a task on Slurm")
    parser.add_argument("--exclusive", action="store_true", help="a node for each task on Slurm")
    arguments = parser.parse_args()
    from datatrove.executor import LocalPipelineExecutor
    from stages import run_on_slurm, stages

    paths = (arguments.corpus.resolve(), arguments.tokenizer.resolve(), arguments.output.resolve())
    planned = stages(*paths, arguments.tasks)
    if arguments.slurm:
        arguments.output = paths[2]
        run_on_slurm(arguments, planned)
        return
    for name, (pipeline, tasks) in planned.items():
        logs = str(paths[2] / "logs" / name)
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=arguments.workers, logging_dir=logs).run()


if __name__ == "__main__":
    main()
