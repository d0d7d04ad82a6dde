"""What a slot says once everything that it says it does not know is taken away.

Belongs here: the one list of how models write "nothing" ("null", "n/a", "the user does not state why ..."), for what is
stored (`aspects.py`) and for what is encoded (`encoder/texts.py`) alike. Does not belong here: lengths, spans, meaning.

Such a remark is true of every review that is silent, so embedded in a profile it makes strangers alike. Often it is only
one clause of a value ("the soup was cold, but the review does not mention the service"): the clause goes, the rest stays.
This module imports nothing heavy, so anything may import it.
"""

from __future__ import annotations

import re

_TOLD = (
    r"(?:stated?|mention(?:ed)?|specif(?:y|ied)|sa(?:y|id)|provided?|given?|indicated?|described?|detail(?:ed)?|explain(?:ed)?|"
    r"reveal(?:ed)?|disclosed?|clarif(?:y|ied)|elaborated?(?: on)?|discuss(?:ed)?|address(?:ed)?|determined?|"
    r"inferred|identif(?:y|ied)|"
    r"available|applicable|known|noted?|judged|evaluated|express(?:ed)?|included?)"
)
_PLAINLY = (
    r"(?:(?:explicit|specific|clear|direct|particular|otherwise|actual|further|full|precise|exact)(?:al)?(?:ly)?\s+)"
)
# What a remark about the review is about, as opposed to the thing reviewed ("no violence", "no explicit scenes").
_ABOUT = (
    r"(?:mentions?|evidence|information|indications?|statements?|references?|details?|purposes?|motivations?|motives?|"
    r"reasons?|contexts?|preferences?|judge?ments?|aspects?|points?|criticisms?|companions?|circumstances?|clues?|"
    r"remarks?|attributes)"
)
_REVIEW = r"(?:user|reviewer|reader|diner|customer|viewer|guest|review|text|author of the review|comment|answer|persona|they|it)"

# A whole value that is nothing.
_NOTHING = re.compile(
    rf"(?:null|none|nil|nan|n\.?/?a|-+|\.+|…|\?+|unknown|unspecified|undetermined|undefined|unclear|nothing|no|not)"
    rf"|(?:null|none|n/a|unknown|unspecified)\s*[(:–—-].*"
    rf"|(?:none|nothing)\s+(?:is\s+|was\s+)?{_PLAINLY}?{_TOLD}(?:\s+(?:in|by)\s.*)?"
    rf"|not\s+{_PLAINLY}?{_TOLD}(?:\s+(?:in|by|from)\s.*)?|not\s+(?:clear|sure|explicit)"
    rf"|no\s+(?:\w+\s+)?{_ABOUT}(?:\s+(?:of|in|on|about|for|{_TOLD})\b.*)?|no\s+(?:answer|data|value|text|idea|comment)s?",
    re.IGNORECASE,
)
# A clause that tells of the review's silence.
_SILENT = re.compile(
    # "the user does not (explicitly) state why ...", also without its subject after "but"
    rf"(?:^|\b{_REVIEW}(?:'s review)?\s+(?:also\s+|itself\s+|only\s+)?)(?:does|did|do|has|have)(?:\s+not|"
    rf"n['’]t)\s+(?:{_PLAINLY}\w+|"
    rf"(?:state|mention|specif(?:y|ied)|say|indicate|describe|detail|explain|reveal|disclose|clarify|"
    rf"elaborate)\b(?!\s+(?:well|very|much)\b)|"
    rf"(?:provide|give|offer|express|include|contain|make|discuss|state)\s+(?:any|an?y?\s+(?:specific|explicit|clear|particular)|"
    rf"(?:any\s+)?(?:specific|explicit|clear|further|more|enough|sufficient|direct)|details?|information|context|{_ABOUT}))"
    # "the purpose is not explicitly stated", "the fries were not mentioned"
    rf"|\b(?:is|are|was|were|been|be)(?:\s+not|n['’]t)\s+(?:(?:stated|mentioned|specified|indicated|described|detailed|explained|"
    rf"revealed|disclosed|clarified|judged|determined|inferred)(?!\s+as\b|-)|{_PLAINLY}\w+(?:ed|en|id))\b"
    rf"|\b(?:details?|information|{_ABOUT})\b(?:\W+(?!that\b)\w+){{0,10}}\W+(?:is|are|was|were)(?:\s+not|n['’]t)\s+"
    rf"(?:provided|given|available|included)\b"
    # "(there is) no explicit mention of ...", "no negative judgments are given"
    rf"|^(?:with\s+|there\s+(?:is|are|was|were)\s+|(?:the\s+)?{_REVIEW}\s+(?:contains|has|provides|gives|"
    rf"offers)\s+|has\s+|provides\s+|"
    rf"providing\s+|(?:indicating|implying|suggesting)\s+)no\s+(?:(?:explicit|specific|clear|direct|further|"
    rf"implicit|particular|other|negative|"
    rf"positive|or|purchase|visit|reading|usage|strong)\s+)*{_ABOUT}\b"
    rf"|\bno\s+(?:(?:(?:explicit|specific|clear|particular|negative|positive|or)\s+)*{_ABOUT}|(?:explicit|specific|"
    rf"particular)\s+\w+|"
    rf"dislikes?)\b(?:\s+\w+){{0,6}}\s+(?:(?:is|are|was|were|has been|have been)\s+)?"
    rf"(?:mentioned|provided|given|stated|specified|noted|expressed|indicated|made)\b"
    # "so this cannot be determined", "it is unclear why"
    rf"|\b(?:cannot|can't|can not|could not|couldn't)\s+be\s+(?:\w+ly\s+)?(?:determined|inferred|identified|"
    rf"deduced|established|discerned)\b"
    rf"|\b(?:this|that|it|context|purpose|motivation|reason|circumstances?)\s+(?:is|was|are|remains?)\s+"
    rf"(?:unclear|unknown|unspecified|not\s+clear)\b"
    # "while not mentioning ..."
    rf"|^not\s+(?:mentioning|specifying|stating|indicating|giving any|providing any)\b",
    re.IGNORECASE,
)
# "... for brunch without specifying who came along"
_TAIL = re.compile(
    r",?\s+without\s+(?:(?:any\s+)?(?:explicit|specific|clear|further)\w*\s+)?(?:(?:mention|specif|stat|indicat|detail)\w*ing|"
    r"(?:providing|giving)\s+(?:any|specific|explicit|further|more|clear|details?|information)|details?\b|"
    r"mention\b|[^,.;]*\bmentioned\b)"
    r"[^,.;]*",
    re.IGNORECASE,
)
_BREAK = re.compile(
    r"(?:[.;!?]+\s+|,?\s+(?=(?:but|although|though|however|whereas)\b)|,\s+(?=(?:yet|and|so|while|thus|therefore|which|"
    r"indicating|suggesting|implying|providing|with|leaving|making|beyond|since|as|because|only|just)\b)|"
    r"\s+(?=while\b|and\s+(?:does|did)\s+not\b))",
    re.IGNORECASE,
)
_JOINT = re.compile(r"^(?:but|although|though|however|whereas|yet|and|so|while|thus|therefore)\b,?\s*", re.IGNORECASE)
# What hangs on the clause before it and falls with it.
_DEPENDENT = re.compile(
    r"^(?:so|thus|therefore|which|indicating|suggesting|implying|providing|leaving|making|beyond|since|as|because|only|just)\b",
    re.IGNORECASE,
)
_AND = re.compile(r"and\b", re.IGNORECASE)
_OUTSIDE = " \t\"'“”.,;:-()[]"


def what_is_stated(text: str) -> str | None:
    """The text without the clauses that only tell what was not stated, on one line; None where nothing is left.

    What remains is as written, save for a leading "but" or "and" of a clause whose first half has gone.
    """
    line = " ".join(text.split())
    bare = line.strip(_OUTSIDE)
    if not any(map(str.isalnum, bare)) or _NOTHING.fullmatch(bare):
        return None
    kept: list[str] = []
    was_silent = was_dependent = after_silence = False
    for clause in _clauses(_TAIL.sub("", line)):
        told = _JOINT.sub("", clause.lstrip())
        if was_silent and (_DEPENDENT.match(clause) or (was_dependent and _AND.match(clause))):
            was_dependent = True
            continue
        was_dependent = False
        was_silent = bool(_SILENT.search(told)) or _NOTHING.fullmatch(told.strip(_OUTSIDE)) is not None
        if not was_silent:
            kept.append(told if after_silence and not kept else clause)
        after_silence |= was_silent
    stated = "".join(kept).strip().rstrip(",;")
    if not any(map(str.isalnum, stated)):
        return None
    return stated[0].upper() + stated[1:] if line[0].isupper() else stated


def _clauses(line: str) -> list[str]:
    """The line cut before each clause, so that the pieces join to the line again."""
    pieces, start = [], 0
    for match in _BREAK.finditer(line):
        pieces.append(line[start : match.end()])
        start = match.end()
    return [piece for piece in [*pieces, line[start:]] if piece]
