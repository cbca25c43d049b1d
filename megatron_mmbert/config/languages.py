"""Named sets of languages, so that a phase may say ``@mmbert_pretrain`` instead of 60 codes.

ISO 639-3 codes without script, as ``statistics/language_counts.csv`` of the mmBERT repository has them; ``code`` is the
language of sources that are no natural language (StarCoder). The csv has 60 and 109 languages plus code; the paper's
text says 110 plus code.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_mmbert.utils.errors import nearest

_PRETRAIN = """
afr arb azj ben bul ces cmn dan deu ekk ell eng fas fil fin fra gle glg guj heb hin hrv hun ind ita jpn kat kaz khk khm
kor lit lvs mal mar mkd mya nld nob npi pbt pol por ron rus sin slk slv spa swe swh tam tel tha tur ukr urd vie xho zsm
code
"""
_ADDED_IN_MIDTRAIN = """
als amh anp ars ary arz bel bew bod bos cat ceb ckb cym epo eus fry gla gmh gsw hat hif hye isl jav kan kir kmr lao lat
ltz mlt mri mww nap nno nrm ory pan pcm plt rmy snd som srp tat tgk uzn yue
"""

LANGUAGE_SETS: dict[str, tuple[str, ...]] = {
    "@mmbert_pretrain": tuple(_PRETRAIN.split()),
    "@mmbert_midtrain": tuple((_PRETRAIN + _ADDED_IN_MIDTRAIN).split()),
}


def expand(entries: Sequence[str]) -> list[str]:
    """The entries with each ``@name`` replaced by its languages; each language once, in the order of first mention.

    Raises:
        ValueError: no set of that name.
    """
    found: dict[str, None] = {}
    for entry in entries:
        if entry.startswith("@") and entry not in LANGUAGE_SETS:
            known = ", ".join(LANGUAGE_SETS)
            raise ValueError(f"no language set {entry!r}{nearest(entry, LANGUAGE_SETS)}; choose from {known}")
        found.update(dict.fromkeys(LANGUAGE_SETS.get(entry, (entry,))))
    return list(found)
