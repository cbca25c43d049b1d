"""Export a SentencePiece BPE model to a Hugging Face ``tokenizer.json``: the same ids on every document.

SentencePiece joins, at each step, the two neighbours whose joint piece has the best score, the leftmost first. The
exported merges are therefore every way to split every piece in two pieces, ordered by the score of the whole. Pieces
that the user defined (Gemma's whitespace runs and HTML tags) are cut out before merging, by longest match, which is
what an added token of the `tokenizers` library does on the normalised text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from megatron_mmbert.tokenizer.sentencepiece_proto import BPE, Kind
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE, SPECIAL_PIECES
from megatron_mmbert.tokenizer.whitespace import ESCAPE, RULE_NAME, SPACE
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import atomic_file, to_json, write_json

MODEL_MAX_LENGTH = 8192


def build_exported(proto: Any, path: Path) -> Tokenizer:
    """Return the `tokenizers` object that gives the same ids as the SentencePiece model ``proto``.

    Raises:
        UserError: an export would give other ids (the model is no BPE, has no byte fallback, or normalises text).
    """
    obstacle = _obstacle(proto)
    if obstacle:
        raise UserError(
            f"{path}: {obstacle}, so no Hugging Face tokenizer with the same ids can be written; train one "
            "with tools/train_tokenizer.py"
        )
    pieces = [piece.piece for piece in proto.pieces]
    unknown = next(piece.piece for piece in proto.pieces if piece.type == Kind.UNKNOWN)
    exported = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges_of(proto),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    exported.normalizer, exported.decoder = _rules(proto.normalizer_spec)
    for piece in proto.pieces:
        if piece.type in (Kind.CONTROL, Kind.UNKNOWN):
            exported.add_special_tokens([_token(piece.piece, special=True)])
        elif piece.type == Kind.USER_DEFINED:
            exported.add_tokens([_token(piece.piece, special=False)])
    return exported


def merges_of(proto: Any) -> list[tuple[str, str]]:
    """Return every split of every learned piece into two learned pieces, best score first.

    The splits of one piece have one score in SentencePiece and different ranks here. That matters only where two
    different splits of one piece overlap in the text, which greedy joining from the left does not produce: no
    document of the test corpora has it.
    """
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == Kind.NORMAL}
    ranked = sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: (-scores[piece], piece))
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def write_folder(exported: Tokenizer, names: dict[str, str], ids: dict[str, int], folder: Path) -> None:
    """Write ``tokenizer.json`` and the two small files that ``AutoTokenizer`` wants beside it.

    ``PreTrainedTokenizerFast`` as class, and not Gemma's or Llama's: those rebuild the tokenizer when loaded, with
    rules of their own version of transformers.

    Args:
        names: role (pad, eos, bos, unk, mask) to piece.
        ids: role to id.
    """
    bos, eos = names["bos"], names["eos"]
    exported.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} $B {eos}",
        special_tokens=[(bos, ids["bos"]), (eos, ids["eos"])],
    )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / EXPORTED_FILE) as staging:
        exported.save(str(staging))
    tokens = {f"{role}_token": name for role, name in names.items()} | {"cls_token": bos, "sep_token": eos}
    if ids["unk"] == ids["pad"]:  # a byte-level vocabulary needs none
        del tokens["unk_token"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MODEL_MAX_LENGTH,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(ids[role]): _token_entry(exported, ids[role]) for role in names},
        **tokens,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", tokens)


def _rules(spec: Any) -> tuple[Any, Any]:
    """Return the normalizer of the text before merging, and the decoder that undoes it after the pieces are joined."""
    before: list[Any] = [normalizers.Replace(" ", SPACE)]
    after: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        before.insert(0, normalizers.Prepend(SPACE))
        after.append(decoders.Strip(" ", 1, 0))
    if spec.name == RULE_NAME:
        before.insert(0, normalizers.Replace(SPACE, ESCAPE))
        after.append(decoders.Replace(ESCAPE, SPACE))
    return normalizers.Sequence(before), decoders.Sequence(after)


def _token(content: str, special: bool) -> AddedToken:
    """Return an added token.

    ``<mask>`` takes the spaces before it, which belong to the word it stands for (``▁cat`` is one piece): people write
    "the <mask> sat". No other token takes any. User-defined pieces match after ' ' → '▁'.
    """
    takes_spaces = content == SPECIAL_PIECES["mask"]
    return AddedToken(
        content, single_word=False, lstrip=takes_spaces, rstrip=False, normalized=not special, special=special
    )


def _token_entry(exported: Tokenizer, token_id: int) -> dict[str, Any]:
    token = exported.get_added_tokens_decoder()[token_id]
    return {
        "content": token.content,
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
        "special": token.special,
    }


def _obstacle(proto: Any) -> str | None:
    """Return the reason why an export of ``proto`` could give other ids, or None."""
    normalizer = proto.normalizer_spec
    if proto.trainer_spec.model_type != BPE:
        return "it is no BPE model"
    if not proto.trainer_spec.byte_fallback:
        return "it has no byte fallback"
    changes_characters = normalizer.precompiled_charsmap and normalizer.name != RULE_NAME
    if changes_characters or normalizer.remove_extra_whitespaces or not normalizer.escape_whitespaces:
        return f"it changes the text (normalisation {to_json(normalizer.name)})"
    if proto.trainer_spec.treat_whitespace_as_suffix:
        return "it puts spaces after words"
    if any(piece.type == Kind.UNUSED for piece in proto.pieces):
        return "it has pieces marked as unused"
    return None
