"""Starting, describing and leaving the parallel world of one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from megatron_mmbert import parallel
from megatron_mmbert.parallel.runtime import Runtime, all_ranks, barrier, broadcast_object, sum_over_data_parallel
from megatron_mmbert.utils.errors import UserError


@pytest.fixture(autouse=True)
def left_behind() -> Iterator[None]:
    """Each test starts and leaves the world by itself."""
    parallel.enable_cpu_mode()
    parallel.shutdown()
    yield
    parallel.shutdown()


def test_starting_and_leaving_twice() -> None:
    for _ in range(2):
        runtime = parallel.start(seed=1)
        assert parallel.current() is runtime
        assert dist.is_initialized()
        parallel.shutdown()
        assert not dist.is_initialized()
        with pytest.raises(RuntimeError, match=r"call megatron_mmbert\.parallel\.start\(\) first"):
            parallel.current()
        parallel.shutdown()  # a second time is no error


def test_starting_again_keeps_the_world() -> None:
    first = parallel.start(seed=1)
    group = dist.group.WORLD
    assert parallel.start(seed=2) == first
    assert dist.group.WORLD is group


def test_one_process_is_all_of_everything() -> None:
    runtime = parallel.start()
    assert (runtime.rank, runtime.world_size) == (0, 1)
    assert (runtime.dp_size, runtime.tp_size, runtime.pp_size) == (1, 1, 1)
    assert (runtime.is_main, runtime.is_first_stage, runtime.is_last_stage) == (True, True, True)
    assert runtime.describe() == f"1 process (tp 1, pp 1, dp 1) on {runtime.device.type}"
    values = torch.ones(2)
    assert sum_over_data_parallel(values) is values
    assert broadcast_object({"a": 1}) == {"a": 1}
    barrier()


def test_a_ranks_place() -> None:
    runtime = Runtime(3, 4, 0, 1, 1, 2, 1, 2, torch.device("cpu"))
    assert (runtime.is_main, runtime.is_first_stage, runtime.is_last_stage) == (False, False, True)
    assert runtime.describe() == "4 ranks (tp 2, pp 2, dp 1) on cpu"


@pytest.mark.parametrize(("processes", "tensor", "pipeline"), [(3, 2, 1), (4, 1, 3), (6, 2, 2), (1, 2, 1)])
def test_a_world_that_does_not_divide(
    processes: int, tensor: int, pipeline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    sentence = f"{processes} processes do not divide by parallel.tensor {tensor} x parallel.pipeline {pipeline}; change"
    with pytest.raises(UserError, match=sentence):
        parallel.start(tensor=tensor, pipeline=pipeline)
    assert not dist.is_initialized(), "refused before anything was set up"


def test_a_process_without_a_parallel_world_is_alone() -> None:
    """Encoding and the doctor choose engines without one."""
    assert broadcast_object("mine") == "mine"
    assert all_ranks("mine") == ["mine"]
