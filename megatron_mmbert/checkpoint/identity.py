"""The identity of a model: all that decides what it computes from a text, and the one comparison of two identities.

Tensors of equal shapes can mean different things: another tokenizer gives their rows to other pieces, another theta or
window makes another function of them. So wherever a model meets a tokenizer, a recipe or another model, the two
identities are compared here. A value that one side does not record (a file of an earlier version) is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.utils.errors import UserError, nearest

if TYPE_CHECKING:
    from megatron_mmbert.tokenizer.load import Tokenizer

FLAG = "--allow-different"
TOKENIZER, THETA, THETA_LOCAL = "tokenizer", "rope_theta", "rope_theta_local"
_SHAPE = ("vocab_size", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")
_SHOWN = 12


@dataclass(frozen=True)
class Identity:
    """The values by name, and ``place``, what messages call the model; a value that is None or absent is not known.

    The value of the tokenizer is a tuple of the fingerprints of its files, the first that of the one that was used.
    """

    place: str
    values: Mapping[str, Any]


def model_values(
    model: ModelConfig, rope_theta: float, rope_theta_local: float, fingerprints: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the values of an encoder of this project.

    Args:
        fingerprints: of its tokenizer's files; none if they are not known.
    """
    return {
        TOKENIZER: fingerprints or None,
        **{name: getattr(model, name) for name in _SHAPE},
        "global_layers": [layer for layer in range(model.num_layers) if model.is_global(layer)],
        "window_each_side": model.window_each_side,
        THETA: rope_theta,
        THETA_LOCAL: rope_theta_local,
        "norm": "layer norm, no bias",
        "norm_eps": model.norm_eps,
        "activation": "gelu",
    }


NAMES = tuple(model_values(ModelConfig(), 1.0, 1.0))
"""The names of an encoder's values, which ``--allow-different`` and the recipe's ``allow_different`` take."""


def of_checkpoint(path: Path, meta: CheckpointMeta) -> Identity:
    """Return the identity of the checkpoint that ``meta`` describes."""
    return Identity(str(path), model_values(meta.model, meta.rope_theta, meta.rope_theta_local, fingerprints_of(meta)))


def fingerprints_of(meta: CheckpointMeta) -> tuple[str, ...]:
    """Return the fingerprints of all files of a checkpoint's tokenizer; none if they are not known."""
    return (meta.tokenizer_fingerprint, *meta.tokenizer_aliases) if meta.tokenizer_fingerprint else ()


def tokenizer_values(meta: CheckpointMeta, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the description's values of ``tokenizer``; it keeps the names that an equal one has in ``meta``."""
    own, known = tokenizer.fingerprint(), fingerprints_of(meta)
    same = known if any(map(tokenizer.has_fingerprint, known)) else ()
    return {"tokenizer_fingerprint": own, "tokenizer_aliases": [each for each in dict.fromkeys(same) if each != own]}


def intended_changes(phase: Phase, before: CheckpointMeta) -> set[str]:
    """Return the thetas that the recipe changes on purpose where ``phase`` starts from the checkpoint ``before``.

    These are the ones that it states. A local theta that follows from the global one is meant where the two were one
    before; ModernBERT's 10,000 beside 160,000 is not given up unsaid.
    """
    stated = phase.model_fields_set & {THETA, THETA_LOCAL}
    follows = {THETA_LOCAL} if THETA in stated and before.rope_theta == before.rope_theta_local else set()
    return stated | follows


def differing(one: Identity, other: Identity) -> list[str]:
    """Return the names of the values that both sides know and that are not equal."""
    known = [name for name, value in one.values.items() if value is not None and other.values.get(name) is not None]
    return [name for name in known if not _equal(name, one.values[name], other.values[name])]


def check_same(one: Identity, other: Identity, remedy: str, allowed: Collection[str] = ()) -> None:
    """Compare two models, or a model with what it is given.

    Args:
        remedy: what to do if the difference is not meant.
        allowed: names of values that may differ.

    Raises:
        UserError: a value differs; the sentence names all that do.
    """
    names = [name for name in differing(one, other) if name not in allowed]
    if names:
        values = ", ".join(f"{name} ({_shown(one, name)}, not {_shown(other, name)})" for name in names)
        raise UserError(
            f"{one.place}: differs from {other.place} in {values}; {remedy}, or pass {FLAG} {','.join(names)} "
            "if you mean it"
        )


def check_tokenizer(path: Path, meta: CheckpointMeta, tokenizer: Tokenizer, allowed: Collection[str] = ()) -> None:
    """Compare a checkpoint with the tokenizer that it is to be used with.

    Raises:
        UserError: it was trained with another one, and that is not allowed.
    """
    if TOKENIZER in allowed or any(map(tokenizer.has_fingerprint, fingerprints_of(meta))):
        return
    trained = meta.recipe.get("tokenizer", {}).get("path")
    # The recipe of a phase that starts from it already names the new one.
    hint = f" ({trained} in its recipe)" if trained and Path(trained) != tokenizer.path else ""
    remedy = f"it was trained with another tokenizer: give that one{hint}"
    check_same(
        of_checkpoint(path, meta), Identity(str(tokenizer.path), {TOKENIZER: (tokenizer.fingerprint(),)}), remedy
    )


def check_thetas(path: Path, meta: CheckpointMeta, phase: Phase, allowed: Collection[str] = ()) -> None:
    """Compare the thetas of a checkpoint with those of a phase that is to train it.

    Raises:
        UserError: one differs that is not in ``allowed``.
    """
    found = Identity(str(path), {THETA: meta.rope_theta, THETA_LOCAL: meta.rope_theta_local})
    wanted = Identity(f"phase {phase.name!r} of the recipe", {THETA: phase.rope_theta, THETA_LOCAL: phase.theta_local})
    keep = f"{THETA}: {meta.rope_theta:.17g}, {THETA_LOCAL}: {meta.rope_theta_local:.17g}"
    check_same(found, wanted, f"state in the phase which it is to have ({keep} keeps the checkpoint's)", allowed)


def check_names(allowed: Iterable[str], known: Collection[str] = NAMES) -> None:
    """Check the names that a user allows to differ.

    Raises:
        UserError: one is no name of a value.
    """
    for name in allowed:
        if name not in known:
            raise UserError(f"{FLAG} {name}: no such value{nearest(name, known)}; choose from {', '.join(known)}")


def _equal(name: str, one: Any, other: Any) -> bool:
    return bool(set(one) & set(other)) if name == TOKENIZER else bool(one == other)


def _shown(identity: Identity, name: str) -> str:
    value = identity.values[name]
    if name == TOKENIZER:
        return f"{value[0][:_SHOWN]}…"
    return f"{value:.17g}" if isinstance(value, float) else str(value)
