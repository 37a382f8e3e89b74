"""Texts that tokenizers disagree about, made from a seed. Imports no library."""

from __future__ import annotations

import html
import random

_WORDS = (
    "a photo of the singing bird isn't it's THEY'LL we've I'd o'clock don'ts U.S.A. "
    "e-mail rock'n'roll naïve café "
    "Ångström straße İstanbul ﬁnal ²³ ½ № ℌ "
    "ſ 'ſ x² 100km 3.14 1,000,000 2nd C++ #tag @name _under_ snake_case "
    "CamelCase ALLCAPS https://example.org/a?b=c&d=e <b>bold</b> [x] {y} "
    '\\n %s $9.99 €5 ~ ^ | ` `` "q" «q» “q” ‘q’ '
    "— – … ・ <start_of_text> <end_of_text> !<end_of_text> "
    "<START_OF_TEXT> [CLS] [SEP] <s> </s> <pad> [MASK] ##ing "
    "▁low Ġhigh antidisestablishmentarianism supercalifragilistic zzzzzzzzzzzz"
)
SCRIPTS = (
    "ضفدع أخضر على ورقة العربية‏ ١٢٣",
    "שלום עולם עִבְרִית",
    "カエルが鳴いている ｶﾅ ﾊﾟ ｆｕｌｌ ＷＩＤＴＨ 漢字かな交じり文 。、「」",
    "我爱北京天安门 繁體中文 𠀀𠮷 豈",
    "한국어 텍스트 한글",
    "ภาษาไทย ไม่มี เว้นวรรค",
    "हिन्दी क्षत्रिय ज़ি বাংলা தமிழ் తెలుగు",
    "Русский Ёлка ЁЛКА Ελληνικά Σίσυφος ΟΔΥΣΣΕΥΣ",
    "Tiếng Việt ệ ệ é é ñ n̈",
    "ქართული ᲥᲐᲠᲗᲣᲚᲘ Հայերեն አማርኛ ᏣᎳᎩ ᚠᚢᚦ 𐌰𐌱 𝔘𝔫𝔦 𝟙𝟚",
)
EMOJI = ("🐸", "👩‍👩‍👧", "👨🏽‍🚀", "🏳️‍🌈", "🇩🇪🇫🇷", "☺️", "✋🏿", "1️⃣", "❤", "🫠", "🏴󠁧󠁢󠁥󠁮󠁧󠁿")
SPACES = (
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
    "\xa0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\x85",
    "\x0b",
    "\x1c",
    "\u200b",
    "\ufeff",
)
CONTROLS = (
    "\x00",
    "\x01",
    "\x07",
    "\x1b[31mred\x1b[0m",
    "\x7f",
    "\x80",
    "\u200e",
    "\u202e",
    "\ufffd",
    "\ufffe",
    "\U000e0001",
)
ENTITIES = (
    "&amp;",
    "&amp;amp;",
    "&lt;b&gt;",
    "&quot;",
    "&#39;",
    "&eacute;",
    "&nbsp;",
    "&#x1F438;",
    "&AMP;",
    "&notit;",
    "&",
    "&#0;",
)
MOJIBAKE = (
    "cafÃ©",
    "â€œquotedâ€\x9d",
    "itâ€™s",
    "Ã¼ber",
    "ðŸ\x90¸",
    "schÃ¶n",
    "Â£5",
    "l’humanitÃ©",
    "РџСЂРёРІРµС‚",
)


def hard_texts(count: int = 10_000, seed: int = 0) -> list[str]:
    """So many texts, the same ones for a seed: short and some very long, of every kind and of kinds mixed."""
    pick = random.Random(seed)
    found = [
        "",
        " ",
        "\n",
        "\t \r\n",
        "x" * 5_000,
        "漢" * 1_500,
        "🐸" * 700,
        "ab " * 2_000,
        "'" * 300,
        "0" * 1_000,
    ]
    while len(found) < count:
        parts = [_part(pick) for _ in range(pick.choice((1, 1, 2, 3, 5, 8)))]
        text = "".join(part + pick.choice(SPACES if pick.random() < 0.3 else " ") for part in parts)
        found.append(html.escape(text) if pick.random() < 0.05 else text)
    return found[:count]


def _part(pick: random.Random) -> str:
    kind = pick.random()
    if kind < 0.4:
        return " ".join(pick.choices(_WORDS.split(), k=pick.randint(1, 6)))
    if kind < 0.6:
        script = pick.choice(SCRIPTS)
        start = pick.randrange(len(script))
        return script[start : start + pick.randint(1, 20)]
    if kind < 0.7:
        return "".join(pick.choices(EMOJI, k=pick.randint(1, 3)))
    if kind < 0.9:
        return pick.choice(pick.choice((CONTROLS, ENTITIES, MOJIBAKE)))
    letters = (
        chr(
            pick.choice(
                (pick.randrange(0x20, 0x250), pick.randrange(0x250, 0xD800), pick.randrange(0xE000, 0x30000))
            )
        )
        for _ in range(pick.randint(1, 12))
    )
    return "".join(letters)
