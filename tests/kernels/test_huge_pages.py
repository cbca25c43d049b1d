"""Large new tensors ask for huge pages, others do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from megatron_mmbert.kernels.huge_pages import on_huge_pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has madvise")
def test_a_large_tensor_is_advised() -> None:
    large, small = torch.UntypedStorage(2**27 + 2**22), torch.UntypedStorage(2**22)
    inside = large.data_ptr() + 2**26, small.data_ptr() + 2**21  # pytest would print a storage in a message whole
    before = [_flags_at(address) for address in inside]
    given = [on_huge_pages(storage).data_ptr() for storage in (large, small)]
    after = [_flags_at(address) for address in inside]
    assert given == [inside[0] - 2**26, inside[1] - 2**21]
    assert ["hg" in flags for flags in before] == [False, False]
    assert ["hg" in flags for flags in after] == [True, False]
    total = int(torch.tensor([], dtype=torch.uint8).set_(large).fill_(1).sum())  # type: ignore[call-overload]
    assert total == 2**27 + 2**22


def _flags_at(address: int) -> list[str]:
    """The kernel's flags of the mapping that has the address; ``hg``: huge pages were asked for."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name = line.split()[0]
        if "-" in name and not name.endswith(":"):
            start, stop = (int(part, 16) for part in name.split("-"))
            inside = start <= address < stop
        elif inside and name == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"no mapping has {address:#x}")
