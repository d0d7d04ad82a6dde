"""Characters and markup of strangers' texts: what is invisible goes, what could be markup becomes harmless.

Belongs here: rules about single characters and tags, whatever the text says. Does not belong here: personal data
(`scrub`), texts that give orders to a language model (`personas/hostile.py`), cutting (`prompts`).
"""

from __future__ import annotations

import html
import re
import unicodedata

# Characters that are drawn as nothing, or change the drawing of others, without being of a control or format category:
# combining grapheme joiner, Hangul fillers, Khmer inherent vowels, Mongolian and other variation selectors, blank
# Braille.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Control, format (zero-width, bidirectional, tags), surrogates, private use, unassigned.
_UNWANTED = {"Cc", "Cf", "Cs", "Co", "Cn"}
_SPACES = re.compile(r"\s+")
_HTML_BREAK = re.compile(r"<\s*/?\s*(?:br|p|div|li|ul|ol|i|b|em|strong|span)\s*/?\s*>", re.IGNORECASE)
# One character for one, so that nothing can reassemble from the pieces of what was removed.
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "`": "'", "{": "(", "}": ")"})
_HEADING = re.compile(r"(?<!\S)#+(?!\S)")
_RUN = re.compile(r'([#=~_|*-]|"|\')\1{2,}')
_DOUBLE_HASH = re.compile(r"##+")

_SCRIPT = re.compile(
    r"<\s*(script|style|iframe|svg|template|object)\b.*?(?:<\s*/\s*\1\s*>|$)", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"<[/!?|]?[a-zA-Z|][^<>]{0,300}>")
_COMMENT = re.compile(r"<!--.*?(?:-->|$)", re.DOTALL)
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]{0,300})\]\([^()]{0,1000}\)")
_EMPHASIS = re.compile(r"(?<!\w)[*_~]{1,3}(?=\w)|(?<=[\w.,!?])[*_~]{1,3}(?!\w)")


def is_invisible(character: str) -> bool:
    """Whether a character is drawn as nothing, or has no place in a text; line breaks and tabs count as well."""
    return unicodedata.category(character) in _UNWANTED or bool(_INVISIBLE.match(character))


def visible(text: str) -> str:
    """`text` on one line, composed (NFC), without invisible characters; every run of white space is one space."""
    # White space first: line breaks and tabs are control characters too, and would glue words together.
    text = _SPACES.sub(" ", text)
    if not (text.isascii() and text.isprintable()):
        text = "".join(c for c in _INVISIBLE.sub("", text) if unicodedata.category(c) not in _UNWANTED)
        text = unicodedata.normalize("NFC", text)
    return _SPACES.sub(" ", text).strip()


def harmless_line(text: str) -> str:
    """One line in which nothing can open a tag, a chat token, a fence, a template expression or a heading.

    Applying it again may still change something: removing one thing can bring together another.
    """
    text = _HTML_BREAK.sub(" ", visible(text)).translate(_LOOKALIKES)
    text = _DOUBLE_HASH.sub("#", _RUN.sub(r"\1", text))
    return _SPACES.sub(" ", _HEADING.sub("", text)).strip()


def without_markup(text: str) -> str:
    """For people: HTML and Markdown taken out, not shown as code; scripts with what they hold, links but for their words.

    Entities are decoded first, as often as they were encoded, so that `&amp;lt;script&amp;gt;` hides nothing.
    """
    while "&" in text and (decoded := html.unescape(text)) != text:
        text = decoded
    text = _COMMENT.sub(" ", _SCRIPT.sub(" ", text))
    return _EMPHASIS.sub("", _MARKDOWN_LINK.sub(r"\1", _TAG.sub(" ", text)))
