"""Scripts of text by ISO 15924's codes, from the names that Unicode gives its letters (``CYRILLIC SMALL LETTER A``)."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

_NAMES = {
    beginning: code
    for code, beginning in (
        entry.strip().split(" ", 1)
        for entry in """
Adlm ADLAM, Aghb CAUCASIAN ALBANIAN, Ahom AHOM, Arab ARABIC, Armi IMPERIAL ARAMAIC, Armn ARMENIAN, Avst AVESTAN,
Bali BALINESE, Bamu BAMUM, Bass BASSA VAH, Batk BATAK, Beng BENGALI, Bhks BHAIKSUKI, Bopo BOPOMOFO, Brah BRAHMI,
Bugi BUGINESE, Buhd BUHID, Cakm CHAKMA, Cans CANADIAN SYLLABICS, Cari CARIAN, Cham CHAM, Cher CHEROKEE,
Chrs CHORASMIAN, Copt COPTIC, Cpmn CYPRO-MINOAN, Cprt CYPRIOT, Cyrl CYRILLIC, Deva DEVANAGARI, Diak DIVES AKURU,
Dogr DOGRA, Dsrt DESERET, Dupl DUPLOYAN, Egyp EGYPTIAN HIEROGLYPH, Elba ELBASAN, Elym ELYMAIC, Ethi ETHIOPIC,
Geor GEORGIAN, Glag GLAGOLITIC, Gong GUNJALA GONDI, Gonm MASARAM GONDI, Goth GOTHIC, Gran GRANTHA, Grek GREEK,
Gujr GUJARATI, Guru GURMUKHI, Hang HANGUL, Hang HALFWIDTH HANGUL, Hani CJK, Hani IDEOGRAPHIC, Hano HANUNOO,
Hatr HATRAN, Hebr HEBREW, Hira HIRAGANA, Hira HENTAIGANA, Hluw ANATOLIAN HIEROGLYPH, Hmng PAHAWH HMONG,
Hmnp NYIAKENG PUACHUE, Hung OLD HUNGARIAN, Ital OLD ITALIC, Java JAVANESE, Kali KAYAH LI, Kana KATAKANA,
Kana HALFWIDTH KATAKANA, Kawi KAWI, Khar KHAROSHTHI, Khmr KHMER, Khoj KHOJKI, Kits KHITAN SMALL, Knda KANNADA,
Kthi KAITHI, Lana TAI THAM, Laoo LAO, Latn LATIN, Latn FULLWIDTH LATIN, Lepc LEPCHA, Limb LIMBU, Lina LINEAR A,
Linb LINEAR B, Lisu LISU, Lyci LYCIAN, Lydi LYDIAN, Mahj MAHAJANI, Maka MAKASAR, Mand MANDAIC, Mani MANICHAEAN,
Marc MARCHEN, Medf MEDEFAIDRIN, Mend MENDE KIKAKUI, Merc MEROITIC CURSIVE, Mero MEROITIC HIEROGLYPHIC,
Mlym MALAYALAM, Modi MODI, Mong MONGOLIAN, Mroo MRO, Mtei MEETEI MAYEK, Mult MULTANI, Mymr MYANMAR, Nagm NAG MUNDARI,
Nand NANDINAGARI, Narb OLD NORTH ARABIAN, Nbat NABATAEAN, Newa NEWA, Nkoo NKO, Nshu NUSHU, Ogam OGHAM, Olck OL CHIKI,
Orkh OLD TURKIC, Orya ORIYA, Osge OSAGE, Osma OSMANYA, Ougr OLD UYGHUR, Palm PALMYRENE, Pauc PAU CIN HAU,
Perm OLD PERMIC, Phag PHAGS-PA, Phli INSCRIPTIONAL PAHLAVI, Phlp PSALTER PAHLAVI, Phnx PHOENICIAN, Plrd MIAO,
Prti INSCRIPTIONAL PARTHIAN, Rjng REJANG, Rohg HANIFI ROHINGYA, Runr RUNIC, Samr SAMARITAN, Sarb OLD SOUTH ARABIAN,
Saur SAURASHTRA, Shaw SHAVIAN, Shrd SHARADA, Sidd SIDDHAM, Sind KHUDAWADI, Sinh SINHALA, Sogd SOGDIAN,
Sogo OLD SOGDIAN, Sora SORA SOMPENG, Soyo SOYOMBO, Sund SUNDANESE, Sylo SYLOTI NAGRI, Syrc SYRIAC, Tagb TAGBANWA,
Takr TAKRI, Tale TAI LE, Talu NEW TAI LUE, Taml TAMIL, Tang TANGUT, Tavt TAI VIET, Telu TELUGU, Tfng TIFINAGH,
Tglg TAGALOG, Thaa THAANA, Thai THAI, Tibt TIBETAN, Tirh TIRHUTA, Tnsa TANGSA, Toto TOTO, Ugar UGARITIC, Vaii VAI,
Vith VITHKUQI, Wara WARANG CITI, Wcho WANCHO, Xpeo OLD PERSIAN, Xsux CUNEIFORM, Yezi YEZIDI, Yiii YI,
Zanb ZANABAZAR SQUARE
""".split(",")
    )
}
"""The first words of the names of a script's letters, by Unicode, and the script's code."""

_VARIANTS = {
    "Hans": "Hani",
    "Hant": "Hani",
    "Hanb": "Hani Bopo",
    "Jpan": "Hani Hira Kana",
    "Hrkt": "Hira Kana",
    "Kore": "Hang Hani",
    "Aran": "Arab",
    "Cyrs": "Cyrl",
    "Geok": "Geor",
    "Latf": "Latn",
    "Latg": "Latn",
    "Syre": "Syrc",
    "Syrj": "Syrc",
    "Syrn": "Syrc",
}
"""Codes of a language's writing, or of a style, and the scripts of Unicode that it is written in."""

CODES = ("", *sorted(set(_NAMES.values())))
"""The scripts by their numbers in the table; number 0 is no script, or one of all scripts."""


def expected_scripts(language: str) -> frozenset[str]:
    """Return the scripts that the code of ``language`` says (``jpn_Jpan``: three); none where it says none we know."""
    match = re.search(r"[-_]([A-Z][a-z]{3})(?=[-_]|$)", language)
    codes = _VARIANTS.get(match.group(1), match.group(1)).split() if match else []
    return frozenset(codes) if set(codes) <= set(CODES) else frozenset()


def script_counts(text: str) -> dict[str, int]:
    """Return the letters of ``text`` by script, the most frequent first; digits and punctuation are of none."""
    points = np.frombuffer(text.encode("utf-32-le", "replace"), dtype="<u4")
    counts = np.bincount(_table()[points], minlength=len(CODES))
    counts[0] = 0
    order = np.argsort(-counts, kind="stable")
    return {CODES[number]: int(counts[number]) for number in order if counts[number]}


@cache
def _table() -> npt.NDArray[np.uint8]:
    """Return the number of each code point's script in ``CODES``, uint8 [0x110000]."""
    numbers = {beginning: CODES.index(code) for beginning, code in _NAMES.items()}
    longest = max(beginning.count(" ") for beginning in _NAMES) + 1
    table = np.zeros(0x110000, dtype=np.uint8)
    for point in range(0x20000):
        character = chr(point)
        if unicodedata.category(character)[0] == "L":
            words = re.split(" ", unicodedata.name(character, ""), maxsplit=longest)[:longest]
            beginnings = (" ".join(words[:count]) for count in range(len(words), 0, -1))
            table[point] = next((numbers[each] for each in beginnings if each in numbers), 0)
    table[0x20000:0x40000] = CODES.index("Hani")  # the two planes of Han characters
    table[0x17000:0x18D09] = np.where(table[0x17000:0x18D09], table[0x17000:0x18D09], CODES.index("Tang"))
    return table
