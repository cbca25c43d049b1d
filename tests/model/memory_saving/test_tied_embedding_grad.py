"""The tied table's one gradient against autograd's sum of two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_mmbert.builders.model import wrap_for_data_parallel
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.precision import Dtype, PrecisionConfig
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.memory_saving import tied_embedding_grad
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy
from megatron_mmbert.model.memory_saving.tied_embedding_grad import TiedEmbeddingGrad, look_up
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel import Runtime

VOCAB, WIDTH, TOKENS, ROWS = 97, 8, 40, 12


def backward(table_VD: Tensor, carried: TiedEmbeddingGrad | None, passes: int = 1) -> Tensor:
    """The table's gradient after a model that looks up and decodes with the one table."""
    draw = torch.Generator().manual_seed(3)
    for _ in range(passes):
        tokens_T = torch.randint(0, VOCAB // 3, (TOKENS,), generator=draw)  # most of them more than once
        bias_V = torch.zeros(VOCAB, dtype=table_VD.dtype)
        label_K = torch.randint(0, VOCAB, (ROWS,), generator=draw)
        embed = torch.nn.functional.embedding(tokens_T, table_VD)
        hidden_TD = (look_up(table_VD, tokens_T, carried) if carried else embed).tanh()
        total, _ = chunked_cross_entropy(hidden_TD[:ROWS], table_VD, bias_V, label_K, None, carried)
        (0.3 * total).backward()
    assert table_VD.grad is not None
    return table_VD.grad


def table(dtype: torch.dtype) -> Tensor:
    return torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.02)]
)
@pytest.mark.parametrize("passes", [1, 3])
def test_it_is_the_sum_of_the_decoders_and_the_lookups(dtype: torch.dtype, tolerance: float, passes: int) -> None:
    expected = backward(table(dtype), None, passes)
    found = backward(table(dtype), TiedEmbeddingGrad(), passes)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_decoder_elsewhere_leaves_the_lookup_its_own() -> None:
    """On the first of several stages nothing is left; rows that were not looked up have no gradient."""
    weights = table(torch.float32)
    tokens_T = torch.tensor([5, 5, 7])
    look_up(weights, tokens_T, TiedEmbeddingGrad()).sum().backward()
    assert weights.grad is not None
    assert weights.grad[5].eq(2).all() and weights.grad[7].eq(1).all() and weights.grad.sum() == 3 * WIDTH


class _LargeTensors(TorchDispatchMode):
    """Addresses of all tensors as large as the table that are made or written."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, Tensor) and tuple(each.shape) == (VOCAB, WIDTH):
                self.addresses.add(each.data_ptr())
        return out


def test_there_is_one_tensor_of_the_tables_size_beside_it() -> None:
    for carried, most in ((TiedEmbeddingGrad(), 1), (None, 3)):
        weights = table(torch.float32)
        with _LargeTensors() as large:
            backward(weights, carried)
        others = large.addresses - {weights.data_ptr()}
        assert (len(others) <= most) if carried else (len(others) > 1), others


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_straight_into_the_buffer_of_the_steps_gradients(
    runtime: Runtime, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, inside Megatron-Core's wrapper, over two packs."""
    model = ModelConfig(num_layers=1, hidden_size=16, ffn_hidden_size=16, num_attention_heads=1, vocab_size=VOCAB)
    precision = PrecisionConfig(dtype=dtype)

    def gradient() -> Tensor:
        encoder = Encoder(encoder_config(model, 1e4, 1e4, precision=precision), VOCAB).eval()
        initialize(encoder, 1)
        (wrapped,) = wrap_for_data_parallel([encoder], ParallelConfig())
        wrapped.zero_grad_buffer()
        tokens_T, places = torch.arange(TOKENS) % 31, torch.arange(0, TOKENS, 3)
        for _ in range(2):
            packed = PackedSequences.of(torch.tensor([0, TOKENS], dtype=torch.int32), TOKENS)
            (0.5 * wrapped(tokens_T, packed, places, tokens_T[places])).backward()
        weight = encoder.embedding.word_embeddings.weight
        assert weight.grad is None, "nothing is left beside the buffer"
        return weight.main_grad.clone()  # type: ignore[attr-defined]

    by_way_of_grad = gradient()
    monkeypatch.setattr(tied_embedding_grad, "_buffer_of", lambda embedding: embedding.main_grad)
    # A gradient that the wrapper must not read.
    monkeypatch.setattr(torch, "empty_like", lambda like, **_: torch.full(like.shape, torch.nan, dtype=like.dtype))
    straight = gradient()
    assert straight.dtype == torch.float32 and bool(straight.isfinite().all())
    tolerance = 1e-6 if dtype == "fp32" else 2**-8
    torch.testing.assert_close(straight, by_way_of_grad, rtol=tolerance, atol=tolerance * float(straight.abs().max()))
