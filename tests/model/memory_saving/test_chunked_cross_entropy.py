"""Chunked cross-entropy against torch's on dense logits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import ROOT, loss_on_ranks
from torch import Tensor

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.model.memory_saving import chunked_cross_entropy as loss_module
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy
from megatron_mmbert.model.memory_saving.tied_embedding_grad import TiedEmbeddingGrad

ROWS, WIDTH, VOCAB = 23, 16, 101


@pytest.fixture(params=[1, 7, 23, 1000], ids="{} rows a chunk".format)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows of each chunk that was computed; the sizes cover one row, an uneven rest, exactly all and more than all."""
    monkeypatch.setitem(loss_module.BYTES_OF_LOGITS, "cpu", request.param * VOCAB * 4)
    seen: list[int] = []
    original = loss_module._softmax

    def counted(logits_CV: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append(len(logits_CV))
        return original(logits_CV, *rest)

    monkeypatch.setattr(loss_module, "_softmax", counted)
    yield seen
    assert max(seen) <= request.param
    assert sum(seen) % ROWS == 0


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_KD, table_VD, bias_V (of large logits) and label_K with ignored rows at a chunk's start, middle and end."""
    generator = torch.Generator().manual_seed(seed)
    x, table, bias = (torch.randn(*size, generator=generator) for size in ((ROWS, WIDTH), (VOCAB, WIDTH), (VOCAB,)))
    label = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    label[[0, 6, 7, 22]] = IGNORED_LABEL
    label[1], label[2] = 0, VOCAB - 1
    return x.mul_(3).requires_grad_(), table.requires_grad_(), bias.requires_grad_(), label


def dense(x: Tensor, table: Tensor, bias: Tensor, label: Tensor) -> Tensor:
    """Each row's loss from all logits in float64."""
    logits = F.linear(x.double(), table.double(), bias.double())
    return F.cross_entropy(logits, label, ignore_index=IGNORED_LABEL, reduction="none")


def test_loss_and_gradients_are_those_of_dense_logits(chunks: list[int]) -> None:
    x, table, bias, label = problem()
    expected = dense(x, table, bias, label)
    total, rows = chunked_cross_entropy(x, table, bias, label)
    assert total.dtype == rows.dtype == torch.float32
    torch.testing.assert_close(rows, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total, expected.sum().float(), rtol=1e-5, atol=0)
    assert not rows.requires_grad
    # a factor other than 1, as the division by the global count is
    ours = torch.autograd.grad(0.37 * total, (x, table, bias))
    theirs = torch.autograd.grad(0.37 * expected.sum(), (x, table, bias))
    for found, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-6)


def test_ignored_rows_count_nothing(chunks: list[int]) -> None:
    x, table, bias, label = problem()
    total, rows = chunked_cross_entropy(x, table, bias, label)
    (dx,) = torch.autograd.grad(total, x)
    ignored = label == IGNORED_LABEL
    assert (rows[ignored] == 0).all() and (dx[ignored] == 0).all()
    assert (rows[~ignored] > 0).all() and (dx[~ignored] != 0).all()


def test_only_ignored_rows(chunks: list[int]) -> None:
    x, table, bias, label = problem()
    total, _ = chunked_cross_entropy(x, table, bias, torch.full_like(label, IGNORED_LABEL))
    assert total.item() == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(total, (x, table, bias)))


def test_a_tied_table_gets_both_gradients(chunks: list[int]) -> None:
    """The rows come from the table itself: its gradient is that of the lookup plus that of the decoder."""
    _, table, bias, label = problem()
    tokens = torch.arange(ROWS) * 3 % VOCAB
    (ours,) = torch.autograd.grad(chunked_cross_entropy(table[tokens], table, bias, label)[0], table)
    (theirs,) = torch.autograd.grad(dense(table[tokens], table, bias, label).sum(), table)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    (decoder_only,) = torch.autograd.grad(dense(table.detach()[tokens], table, bias, label).sum(), table)
    assert not torch.allclose(ours, decoder_only, rtol=1e-2), "the lookup's part must be there"


def test_without_gradients_the_loss_is_the_same(chunks: list[int]) -> None:
    x, table, bias, label = problem()
    with torch.no_grad():
        total, _ = chunked_cross_entropy(x, table, bias, label)
    assert not total.requires_grad
    assert torch.equal(total, chunked_cross_entropy(x, table, bias, label)[0].detach())


def test_no_rows() -> None:
    x, table, bias, label = problem()
    total, rows = chunked_cross_entropy(x[:0], table, bias, label[:0])
    assert total.item() == 0 and rows.shape == (0,)
    assert (torch.autograd.grad(total, table)[0] == 0).all()


def test_logits_of_any_size_do_not_overflow() -> None:
    x, table, bias, label = problem()
    huge = 1e4 * x.detach()
    _, rows = chunked_cross_entropy(huge, table, bias, label)
    torch.testing.assert_close(rows, dense(huge, table, bias, label).float(), rtol=1e-4, atol=1e-2)


def test_many_chunks_in_bf16_lose_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over chunks are kept in fp32: in bf16 the later chunks would be rounded away."""
    generator = torch.Generator().manual_seed(0)
    rows, vocab = 1024, 500
    sizes = ((rows, 32), (vocab, 32), (vocab,))
    narrow = [torch.randn(*size, generator=generator).mul_(0.2).bfloat16() for size in sizes]
    label = torch.randint(0, 20, (rows,), generator=generator)
    exact = [each.double().requires_grad_() for each in narrow]
    expected = torch.autograd.grad(dense(*exact, label).sum(), exact)

    def errors(rows_per_chunk: int) -> list[float]:
        monkeypatch.setitem(loss_module.BYTES_OF_LOGITS, "cpu", rows_per_chunk * vocab * 2)
        inputs = [each.clone().requires_grad_() for each in narrow]
        found = torch.autograd.grad(chunked_cross_entropy(*inputs, label)[0], inputs)
        assert all(grad.dtype == torch.bfloat16 for grad in found)
        return [((f - e).norm() / e.norm()).item() for f, e in zip(found, expected, strict=True)]

    for one, many in zip(errors(rows), errors(8), strict=True):
        assert many <= 1.6 * one


@pytest.mark.parametrize("tied", [False, True])
def test_the_bias_gradient_as_a_column_of_the_embeddings_product(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in half precision on a GPU, where it saves a pass over all logits."""
    monkeypatch.setitem(loss_module.BYTES_OF_LOGITS, "cpu", 7 * VOCAB * 2)
    monkeypatch.setattr(loss_module, "_takes_bias_column", lambda embedding: True)
    x, table, bias, label = problem()
    wide = [each.detach().bfloat16().requires_grad_() for each in (x, table, bias)]
    expected = torch.autograd.grad(dense(*wide, label).sum(), wide)
    grad = TiedEmbeddingGrad() if tied else None
    total, _ = chunked_cross_entropy(*wide, label, None, grad)
    found = list(torch.autograd.grad(total, wide, allow_unused=tied))
    if grad is not None:
        found[1] = grad.take()
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs.double()).norm() < 0.01 * theirs.double().norm()
        assert ours.shape == theirs.shape


def test_in_fp64_it_is_the_dense_loss_to_the_last_digits(chunks: list[int]) -> None:
    *inputs, label = problem()
    exact = [each.detach().double().requires_grad_() for each in inputs]
    total, rows = chunked_cross_entropy(exact[0], exact[1], exact[2], label)
    expected = dense(*exact, label)
    torch.testing.assert_close(rows, expected.detach(), rtol=1e-13, atol=1e-13)
    theirs = torch.autograd.grad(expected.sum(), exact)
    for found, reference in zip(torch.autograd.grad(total, exact), theirs, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-11, atol=1e-13)


def test_in_bf16_it_errs_little_more_than_dense_logits_in_bf16() -> None:
    """The bound: 1.5 times the error of torch's own bf16 gradients, over a few draws, rows that are almost certain
    included. Exponentials and scaled rows are each rounded where dense rounds one product: sqrt(2) is expected."""

    def dense_in_bf16(x: Tensor, table: Tensor, bias: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, table, bias), label, reduction="sum")

    ours, theirs = torch.zeros(3), torch.zeros(3)
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        sizes = ((256, 64), (1000, 64), (1000,))
        narrow = [torch.randn(*size, generator=draw).mul_(0.4).bfloat16() for size in sizes]
        label = torch.randint(0, 1000, (256,), generator=draw)
        narrow[0][::4] = narrow[1][label[::4]] * 2  # these predict their label with a probability near 1
        exact = [each.double().requires_grad_() for each in narrow]
        expected = torch.autograd.grad(dense(*exact, label).sum(), exact)

        def errors(loss: Any, narrow: Any = narrow, label: Tensor = label, expected: Any = expected) -> Tensor:
            inputs = [each.clone().requires_grad_() for each in narrow]
            found = torch.autograd.grad(loss(*inputs, label), inputs)
            return torch.stack([(f - e).norm() / e.norm() for f, e in zip(found, expected, strict=True)])

        ours += errors(lambda *inputs: chunked_cross_entropy(*inputs)[0])
        theirs += errors(dense_in_bf16)
    assert (ours <= 1.5 * theirs).all(), (ours, theirs)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_second_backward_pass_is_refused(factor: int) -> None:
    """It works in place; gradients multiplied twice would be silently wrong."""
    x, table, bias, label = problem()
    total, _ = chunked_cross_entropy(x, table, bias, label)
    (factor * total).backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        total.backward()


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_vocabulary_cut_over_ranks(ranks: int, tmp_path: Path) -> None:
    script = ROOT / "tests/support/loss_on_ranks.py"
    done = subprocess.run([sys.executable, str(script), str(ranks), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *inputs, label = loss_on_ranks.problem()
    inputs = [each.requires_grad_() for each in inputs]
    expected = dense(*inputs, label)
    dx, dtable, dbias = torch.autograd.grad(0.37 * expected.sum(), inputs)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    for total, rows, mine, *_ in found:
        torch.testing.assert_close(total, expected.sum().detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(rows, expected.detach(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(mine, dx, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(torch.cat([each[3] for each in found]), dtable, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(torch.cat([each[4] for each in found]), dbias, rtol=1e-11, atol=1e-12)
