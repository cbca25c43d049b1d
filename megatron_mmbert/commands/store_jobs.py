"""The run of a command that makes a store: all of it, one partition of it (``--partition``), or the merge of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.data.preprocess.partition_maker import PartitionMaker, StoreJob

    Job = TypeVar("Job", bound=StoreJob)

_BESIDE_MERGE = ("merge", "output", "overwrite", "workers")  # the last one changes nothing in a store
_MAX_DIGITS = 40  # Python reads no numbers of thousands of them


def partition_of(text: str) -> tuple[int, int]:
    """Return ``I/N`` as two numbers.

    Raises:
        UserError: it is not of this form.
    """
    number, _, count = text.partition("/")
    digits = number.isdecimal() and count.isdecimal() and len(text) < _MAX_DIGITS
    if not (digits and 1 <= int(number) <= int(count)):
        raise UserError(f"--partition {text[:_MAX_DIGITS]!r}: give I/N with I from 1 to N, such as 1/8")
    return int(number), int(count)


def run_store_job(
    arguments: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    job_of: Callable[[argparse.Namespace], Job],
    maker: Callable[[Job], PartitionMaker],
) -> None:
    """Make a store or a partition of one, or merge partitions into a store.

    ``add_arguments``: the command's; ``job_of`` and ``maker`` give the job and who does it.

    Raises:
        UserError: arguments that do not go together, bad input, or the output exists and is something else.
    """
    from megatron_mmbert.data.preprocess.run import make_partition, make_store, merge

    if arguments.merge:
        _check_merge(arguments, add_arguments)
        merge(arguments.merge, arguments.output, arguments.overwrite)
        return
    if not (arguments.input and arguments.tokenizer):
        raise UserError("give --input and --tokenizer, or --merge with the partitions of a store")
    job = job_of(arguments)
    make_partition(job, maker(job)) if job.partition else make_store(job, maker(job))


def _check_merge(arguments: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    """Refuse arguments that a merge would pass over: the partitions are made by then."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    plain = vars(parser.parse_args(["--merge", "partition", "--output", "store"]))
    given = [name for name in plain if name not in _BESIDE_MERGE and getattr(arguments, name) != plain[name]]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(
            f"--merge takes finished partitions and only --output and --overwrite beside them, not {flags}; leave "
            "that out, or make the partitions with it"
        )
