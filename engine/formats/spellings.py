"""Names as people write them: one form for the spellings of a word in many scripts.

``folded`` brings a text into a form in which the usual spellings of a name are the same string:
upper and lower case, full and half width, composed and decomposed letters, accents or none,
``ä``/``ae``/``a``, ``ß``/``ss``/``s``, ``ø``/``oe``/``o``, hiragana and katakana. It is for
comparing only.
``romanised`` gives Latin spellings of a word in another script, and ``readings`` what a text says
under other character sets than the declared one.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from itertools import product
from urllib.parse import unquote

#: Letters without a decomposition in Unicode, and vowels that a casefold leaves apart.
_LETTERS = str.maketrans(
    {
        "ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "a", "œ": "o", "ı": "i",
        "ŋ": "n", "ħ": "h", "ŧ": "t", "ə": "a", "ƒ": "f", "ɓ": "b", "ɗ": "d", "ƙ": "k",
        "ى": "ي", "ة": "ه", "ـ": "", "ک": "ك", "ی": "ي", "ς": "σ",
    }
)  # fmt: skip
_PAIRS = (("ae", "a"), ("oe", "o"), ("ue", "u"), ("aa", "a"), ("ss", "s"))
_HIRAGANA = {code: code + 0x60 for code in range(0x3041, 0x3097)}
#: Letters that are written with several in Latin script, in the usual systems (scholarly without
#: accents, passports, English, German).
_CYRILLIC = {
    "а": ("a",), "б": ("b",), "в": ("v", "w"), "г": ("g", "h"), "ґ": ("g",), "д": ("d",),
    "е": ("e", "ye", "je"), "є": ("e", "ye", "ie", "je"), "ж": ("zh", "z", "j", "sch"),
    "з": ("z", "s"), "и": ("i", "y"), "і": ("i",), "к": ("k",), "л": ("l",), "м": ("m",),
    "н": ("n",), "о": ("o",), "п": ("p",), "р": ("r",), "с": ("s", "ss"), "т": ("t",),
    "у": ("u", "ou"), "ф": ("f",), "х": ("kh", "h", "ch", "x"), "ц": ("ts", "c", "z", "tz"),
    "ч": ("ch", "c", "tsch", "tch"), "ш": ("sh", "s", "sch", "ch"),
    "щ": ("shch", "sc", "schtsch", "sht", "sch"), "ъ": ("", "a"), "ы": ("y", "i"), "ь": ("",),
    "э": ("e",), "ю": ("yu", "ju", "iu"), "я": ("ya", "ja", "ia"), "ј": ("j",), "љ": ("lj",),
    "њ": ("nj",), "ћ": ("c",), "ђ": ("dj", "d"), "џ": ("dz",),
}  # fmt: skip
_GREEK = {
    "α": ("a",), "β": ("v", "b"), "γ": ("g", "gh", "y"), "δ": ("d", "dh"), "ε": ("e",),
    "ζ": ("z",), "η": ("i", "e"), "θ": ("th",), "ι": ("i",), "κ": ("k", "c"), "λ": ("l",),
    "μ": ("m",), "ν": ("n",), "ξ": ("x", "ks"), "ο": ("o",), "π": ("p",), "ρ": ("r",),
    "σ": ("s",), "τ": ("t",), "υ": ("y", "u", "i"), "φ": ("f", "ph"), "χ": ("ch", "h", "kh"),
    "ψ": ("ps",), "ω": ("o",),
}  # fmt: skip
_HEPBURN = (
    "a:ア i:イ u:ウ e:エ o:オ ka:カ ki:キ ku:ク ke:ケ ko:コ sa:サ shi:シ su:ス se:セ so:ソ "
    "ta:タ chi:チ tsu:ツ te:テ to:ト na:ナ ni:ニ nu:ヌ ne:ネ no:ノ ha:ハ hi:ヒ fu:フ he:ヘ "
    "ho:ホ ma:マ mi:ミ mu:ム me:メ mo:モ ya:ヤ yu:ユ yo:ヨ ra:ラ ri:リ ru:ル re:レ ro:ロ "
    "wa:ワ wo:ヲ n:ン ga:ガ gi:ギ gu:グ ge:ゲ go:ゴ za:ザ ji:ジ zu:ズ ze:ゼ zo:ゾ da:ダ "
    "ji:ヂ zu:ヅ de:デ do:ド ba:バ bi:ビ bu:ブ be:ベ bo:ボ pa:パ pi:ピ pu:プ pe:ペ po:ポ "
    "vu:ヴ kya:キャ kyu:キュ kyo:キョ sha:シャ shu:シュ sho:ショ cha:チャ chu:チュ "
    "cho:チョ nya:ニャ nyu:ニュ nyo:ニョ hya:ヒャ hyu:ヒュ hyo:ヒョ mya:ミャ myu:ミュ "
    "myo:ミョ rya:リャ ryu:リュ ryo:リョ gya:ギャ gyu:ギュ gyo:ギョ ja:ジャ ju:ジュ "
    "jo:ジョ bya:ビャ byu:ビュ byo:ビョ pya:ピャ pyu:ピュ pyo:ピョ fa:ファ fi:フィ fe:フェ "
    "fo:フォ ti:ティ di:ディ che:チェ she:シェ je:ジェ"
)
_KANA = {kana: latin for latin, kana in (pair.split(":") for pair in _HEPBURN.split())}
#: Hepburn and Kunrei (ISO 3602) differ in these.
_KUNREI = (("sh", "sy"), ("ch", "ty"), ("tsu", "tu"), ("fu", "hu"), ("j", "zy"), ("syi", "si"),
           ("tyi", "ti"), ("zyi", "zi"))  # fmt: skip
_INITIALS = ("g k", "kk gg", "n", "d t", "tt dd", "r l", "m", "b p", "pp bb", "s", "ss", "",
             "j ch", "jj", "ch", "k", "t", "p", "h")  # fmt: skip
_VOWELS = ("a", "ae", "ya", "yae", "eo u", "e", "yeo you yu", "ye", "o", "wa", "wae", "oe", "yo",
           "u oo", "wo", "we", "wi", "yu", "eu u", "ui", "i ee")  # fmt: skip
_FINALS = ("", "k g", "kk", "k", "n", "n", "n", "t", "l r", "k", "m", "l", "l", "l", "p", "l", "m",
           "p b", "p", "t", "t", "ng", "t", "t", "k", "t", "p", "")  # fmt: skip
#: Character sets in which a text may stand although another one is declared.
_CHARSETS = (
    "utf-8", "latin-1", "cp1252", "gb18030", "big5", "shift_jis", "euc_jp", "iso2022_jp", "euc_kr",
    "iso8859-2", "iso8859-4", "iso8859-5", "cp1251", "koi8-r", "iso8859-7", "iso8859-9",
    "iso8859-6", "iso8859-8", "tis-620", "utf-16-le",
)  # fmt: skip
_MOST_SPELLINGS = 96


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """A text in the form in which spellings of one name are equal; separators stay."""
    wide = unicodedata.normalize("NFKC", text).translate(_HIRAGANA).casefold()
    bare = "".join(
        c for c in unicodedata.normalize("NFD", wide)
        if not unicodedata.combining(c) and unicodedata.category(c) not in ("Mn", "Cf")
    )  # fmt: skip
    form = unicodedata.normalize("NFC", bare).translate(_LETTERS)
    for pair, letter in _PAIRS:
        form = form.replace(pair, letter)
    return form


def plain(text: str) -> str:
    """Letters and digits in the form for numbers: full width and other digits as ASCII."""
    wide = unicodedata.normalize("NFKC", text).casefold()
    return "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else c
        for c in wide
        if unicodedata.category(c) != "Cf"
    )


def readings(value: str) -> tuple[str, ...]:
    """A text as it is, without escapes of web pages, and under other character sets.

    A file can declare one character set and hold another; then the same name looks different in
    two elements. Control characters and what cannot be decoded are left out.
    """
    found = [value]
    if "%" in value or "&" in value:
        found.append(html.unescape(unquote(value)))
    if not value.isascii():
        for charset in ("latin-1", "cp1252"):
            try:
                found += decoded(value.encode(charset))
            except UnicodeEncodeError:
                continue
            break
    return tuple(dict.fromkeys(found))


def decoded(data: bytes) -> list[str]:
    """What bytes say under the usual character sets, where they say anything."""
    if data.isascii() and b"\x1b" not in data:
        return [data.decode("ascii")]
    found = []
    for charset in _CHARSETS:
        try:
            said = data.decode(charset)
        except UnicodeError:
            continue
        if not any(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") for c in said):
            found.append(said)
    return list(dict.fromkeys(found))


def romanised(word: str) -> set[str]:
    """Latin spellings of a word in Cyrillic, Greek, kana or Hangul; empty for others.

    Chinese characters have none here: DICOM writes such names in Latin script beside them.
    """
    wide = unicodedata.normalize("NFKC", word).translate(_HIRAGANA).casefold()
    if any("\uac00" <= c <= "\ud7a3" for c in wide):
        return _spelt([_hangul(c) if "\uac00" <= c <= "\ud7a3" else (c,) for c in wide])
    if any("\u30a1" <= c <= "\u30fa" for c in wide):
        return _from_kana(wide)
    wide = unicodedata.normalize("NFKC", wide.replace("й", "й"))
    for table, extra in ((_CYRILLIC, {"й": ("y", "j", "i"), "ё": ("e", "yo", "jo", "io"),
                                      "ї": ("i", "yi", "ji")}), (_GREEK, {})):  # fmt: skip
        known = {**table, **extra}
        if any(c in known for c in wide):
            letters = [c if c in known else folded(c) for c in wide]
            found = _spelt([known.get(c, (c,)) for c in letters])
            ends = {s[:-2] + end for s in found if re.search("[iy][ijy]$", s) for end in "iy"}
            return found | ends
    return set()


def _spelt(choices: list[tuple[str, ...]]) -> set[str]:
    """Spellings by one system each, then mixtures, up to a number."""
    most = max(map(len, choices), default=1)
    systems = {"".join(c[min(i, len(c) - 1)] for c in choices) for i in range(most)}
    for spelling in product(*choices):
        if len(systems) >= _MOST_SPELLINGS:
            break
        systems.add("".join(spelling))
    return systems


def _hangul(syllable: str) -> tuple[str, ...]:
    number = ord(syllable) - 0xAC00
    parts = (_INITIALS[number // 588], _VOWELS[number % 588 // 28], _FINALS[number % 28])
    return tuple(
        "".join(p) for p in product(*(part.split() or [""] for part in parts))
    )  # fmt: skip


def _from_kana(word: str) -> set[str]:
    out, at, double = "", 0, False
    while at < len(word):
        latin = _KANA.get(word[at : at + 2]) if at + 2 <= len(word) else None
        step = 2 if latin else 1
        latin = latin or _KANA.get(word[at], "")
        if word[at] == "ッ":
            double = True
        elif latin:
            out += (latin[0] if double else "") + latin
            double = False
        at += step
    kunrei = out
    for theirs, ours in _KUNREI:
        kunrei = kunrei.replace(theirs, ours)
    short = re.sub(r"o[ou]|uu", lambda m: m[0][0], out)
    return {out, kunrei, short, re.sub(r"n(?=[bmp])", "m", out)} - {""}
