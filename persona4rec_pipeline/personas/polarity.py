"""How a text feels about the item that it is about: a written persona, or one sentence of a review.

Belongs here: the wording alone, by VADER's word scores (Hutto and Gilbert 2014) and the cues that these miss. Does not
belong here: ratings, groups of reviews, and what is done with the result. A persona that claims to be appreciative but
reads as disappointed would recommend an item because the user resembles its unhappy guests.

What a kind of person dislikes elsewhere is no word against this item ("dislikes crowds and loves the quiet here"), and
what a persona "appreciates this item because" may still be a complaint, as models fill in the phrase whatever follows.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

Polarity = Literal["appreciative", "critical", "mixed"]

# Weights of the parts of a persona; the rationale is the one part that must be about this item.
NAME_WEIGHT = 2.0
DESCRIPTION_WEIGHT = 1.0
# What a description says that somebody likes is a taste, met here or not.
TASTE_WEIGHT = 0.5
RATIONALE_WEIGHT = 3.0
# Share of what is said against the item, of all that is said for or against it.
CRITICAL_SHARE = 0.6
MIXED_SHARE = 0.3
# Sum of clauses that tell of this item, below which a persona is at most mixed.
MIN_ABOUT_ITEM = 0.5
# Weight of what comes after a "but".
TURN_WEIGHT = 1.2
# Weight of a word that can be about anything (VADER) beside that of a cue.
WORD_WEIGHT = 0.5


class _Cue(NamedTuple):
    pattern: re.Pattern[str]
    weight: float


def _cues(*entries: tuple[str, float]) -> tuple[_Cue, ...]:
    return tuple(_Cue(re.compile(pattern, re.IGNORECASE), weight) for pattern, weight in entries)


# What happened to this person here; "can be critical" and the like are weaker, being a habit.
_AGAINST = _cues(
    (r"\bof two minds\b", 0.9),
    (
        r"\b(?:un|dis|non)satisf\w*|\bdissatisf\w*|\bfrustrat\w*|\bdisappoint\w*|\b(?:is|are|was|were|feels?|felt|"
        r"been|often|being) let down\b",
        1.0,
    ),
    (
        r"\bput off\b|\bturned off\b|\bunimpressed\b|\bunderwhelm\w*|\bunhappy\b|\bdisgust\w*|\bannoy\w*|\bdislik\w+|"
        r"\bregret\w*|\bupset\b",
        1.0,
    ),
    (
        r"\b(?:does|do|did) not (?:take to|like|enjoy|care for|meet|live up|recommend|return|connect|impress|work for|"
        r"appeal|resonate|deliver)",
        1.0,
    ),
    (
        r"\b(?:not|never) (?:to |be )?(?:return|com(?:e|ing) back|recommend|worth|impressed|convinced|enjoy\w*|"
        r"satisfied|meet\w* (?:their|his|her))",
        1.0,
    ),
    (
        r"\bcriticiz\w*|\bcriticis\w*|\bcritiqu\w*|\bcomplain\w*|\bnegative(?:ly)?\b|\bfell short\b|\bfalls? short\b|"
        r"\bfail(?:s|ed|ing|ure)?\b",
        1.0,
    ),
    (
        r"\bmarr(?:ed|ing)\b|\bdetract\w*|\bovershadow\w*|\black(?:s|ed|ing|luster)?\b|\bpoor(?:ly)?\b|"
        r"\bstruggl(?:es?|ed|ing) (?:to|with)\b|\bworse\b|\bworst\b|\bgave up\b",
        0.7,
    ),
    (
        r"\bbland\w*|\bovercooked\b|\bundercooked\b|\boverpriced\b|\bgross\b|\bhorrible\b|\bterrible\b|\bawful\b|"
        r"\brude\b|\bsoggy\b|\bstale\b|\bdirty\b|\btasteless\b|\bflavou?rless\b|\bquestionable\b",
        1.0,
    ),
    (
        r"\bboring\b|\bbored\b|\btedious\b|\bslow(?:er|-paced|-going|ness)?\b(?![- ](?:burn|build))|\bpredictab\w+|"
        r"\bflat characters?\b|\bstilted\b|\brepetitive\b",
        0.7,
    ),
    (
        r"\b(?:incorrect|inaccura\w+|inconsisten\w+|inattentive|unprofessional|disorganized|unclean|long waits?|"
        r"wait times?|errors?|mistakes?)\b",
        0.5,
    ),
    (
        r"\bavoids?\b|\bwould not\b|\bwill not\b|\bunwilling\b|\bno longer\b|\binstead of this\b|\bwast(?:e|ed|ing)\b",
        0.5,
    ),
    (
        r"\bskeptic\w*|\bsceptic\w*|\bunconvinced\b|\bcritic(?:al|s)?\b|\bnot interested\b|\bdoes not find\b|"
        r"\bmediocre\b|\bsubpar\b|\bdull\b",
        0.6,
    ),
)
_FOR = _cues(
    (r"\btakes? to\b|\bof two minds\b", 1.0),
    (
        r"\benjoy\w*|\bappreciat\w*|\blov(?:es?|ed|ing)\b|\bdelight\w*|\bpraise\w*|\bthrill(?:ed|s)\b|\bfond\w*|"
        r"\badmir\w*|\bhooked\b|\bto die for\b",
        1.0,
    ),
    (
        r"\bdelicious\b|\bfavou?rites?\b|\bexcellent\b|\boutstanding\b|\bexceptional\b|\bfantastic\b|\bamazing\b|"
        r"\bloyal\w*|\brecommend\w*|\bbest\b",
        0.8,
    ),
    (
        r"\bsatisf(?:ied|ying|action|ies)\b|\bpositive(?:ly)?\b|\bpleas(?:ed|antly|ure)\b|\bimpressed\b|\bexcit\w+|"
        r"\bcomes? back\b|\bkeeps? coming\b",
        0.8,
    ),
    (
        r"\bvalu(?:es?|ed|ing)\b|\bfinds? (?:joy|comfort|solace)|\bresonat\w*|\bcelebrat\w*|\bseek(?:s|"
        r"ing)?\b|\bprefer\w*|\blooks? for\b|\bdrawn\b",
        0.3,
    ),
    (
        r"\bgreat\b|\btasty\b|\bfriendly\b|\bflavou?rful\b|\bengaging\b|\bgripping\b|\bmemorable\b|\bwell-\w+|"
        r"\bexceed\w*|\bhighlights?\b",
        0.3,
    ),
)
_NEGATED = re.compile(
    r"(?:\bnot|\bnever|\bwithout|\bno|\brarely|\bhardly|\bseldom|\bfree of|\bfar from|n['’]t)\s+(?:\w+\s+){0,2}$",
    re.IGNORECASE,
)
# What comes after is only granted ("despite the slow service"), what comes after the next comma counts.
_GRANTED = re.compile(
    r"^(?:despite|although|though|even though|even if|while|regardless of|notwithstanding|aside from|apart from)\b",
    re.IGNORECASE,
)
_TURN = re.compile(r"^(?:but|however|yet|only to)\b", re.IGNORECASE)
_MERIT = re.compile(
    r"\b(?:valu(?:es?|ed)|enjoy\w*|appreciat\w*|lov(?:es?|ed)|prais\w+|lik(?:es?|ed)|admir\w+|liked|great|good|"
    r"excellent)\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(?:if|when|whenever|unless|especially when|should)\b|\bcan be\b|\bmay\b|\bmight\b|\bpotential\w*|"
    r"\bwilling to\b|\bexpects?\b|\bhigh (?:standards|expectations)\b|"
    r"\boften\b|\btends? to\b|\bsensitive to\b|\blikely to\b|\bquick to\b|\bafraid to\b",
    re.IGNORECASE,
)
# Praise that only names a wish ("seeks good service", "the hope of finding", "their appreciation for X" is one of the person).
_WISH = re.compile(
    r"\b(?:seek\w*|looks? for|looking for|search\w*|hop(?:e|es|ing)|desir\w*|want\w*|expect\w*|standards?|"
    r"prefer\w*|prioriti\w*|value[sd]?|need\w*|"
    r"demands?|quest|importance|crucial|should|motivat\w*|contrast\w* with)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[.;!?:]+\s+|,?\s+(?=(?:but|however|although|though|even though|even if|despite|while|yet|only to|which|"
    r"leading|leaving|indicating|"
    r"highlighting|reflecting|suggesting|showing|contrasting)\b)|,\s+",
    re.IGNORECASE,
)
# What books and films are about, and people like in them; VADER takes it for a bad mood.
_THEMES = re.compile(
    r"\b(?:murder\w*|war\w*|crim(?:es?|inals?)|deaths?|dead|kill\w*|abus\w+|trauma\w*|horror\w*|dark\w*|violen\w+|"
    r"trag\w+|thefts?|forger\w+|"
    r"myster\w+|suspens\w+|struggl\w+|fear\w*|phobi\w*|\w+phobia|griev\w*|grief|loss|hardships?|injustices?|evil|"
    r"monsters?|dystopia\w*|"
    r"detectives?|kidnap\w*|illness\w*|angst|unscrupulous|twists?|intense|shock\w*|stress\w*|die|cry\w*|tears?)\b",
    re.IGNORECASE,
)
# What the sentence only concludes about the person repeats or excuses what was said before.
_CONCLUSION = re.compile(
    r"^(?:indicating|highlighting|reflecting|suggesting|showing|which (?:highlights|reflects|indicates|suggests|"
    r"shows))\b",
    re.IGNORECASE,
)
_PRAISE = re.compile(
    r"\bworks? (?:exactly |just |perfectly )?as (?:described|advertised|expected)\b|"
    r"\b(?:could|can|did)(?:n't| ?not) (?:seem to )?(?:put|stop|wait|get enough|be happier|ask for more|"
    r"recommend (?:it|this)? ?(?:highly )?enough|go wrong)|"
    r"\b(?:hard|difficult|impossible) to put (?:it |this |the book )?down|\bunputdownable\b|\bpage[- ]turner|"
    r"\bkept me (?:up|hooked|guessing|reading|on the edge)|"
    r"\bon the edge of my seat|\bblew me away|\bto die for\b|\b(?:did|does|do|will|has|have)(?:n't| not|"
    r" never) (?:ever )?(?:disappoint|let (?:me|us) down)\w*|"
    r"\bnever (?:a dull|boring|dull|disappoint\w*|gets? old|drags?)|\bno (?:complaints|regrets|dull moment)|"
    r"\bmust[- ](?:read|see|have|try)|\bworth (?:it\b|every|the (?:wait|price|money|trip))|"
    r"\bnot (?:at all |a bit |in the least )?(?:bad|boring|dull|disappointed|disappointing)\b|\b(?:will|we'll|"
    r"i'll) (?:definitely |certainly )?be back\b|\bknocks? it out|\bhooked (?:me )?(?:from|right)|"
    r"\bread it in one (?:sitting|go|night)|\bstayed up\b|\bcouldn't be better|\bsecond to none\b|"
    r"\bnothing short of\b",
    re.IGNORECASE,
)
_COMPLAINT = re.compile(
    r"\b(?:buy|try|find|look for) something else\b|\blook elsewhere\b|\bseen better\b|\ba bad name\b|\bas (?:much )?"
    r"(?:fun|exciting|funny|interesting) as (?:an? )?(?:root canal|funeral|traffic|watching|waiting|doing)\b|"
    r"\bput (?:me|us|him|her) to sleep|\b(?:fell|falling|fall) asleep\b|\bsnooze|\b(?:wanted|tried|hoped|"
    r"really want(?:ed)?) to (?:like|love|enjoy)|"
    r"\b(?:could|should|would) have been (?:a |an |so |much )?(?:\w+ )?(?:better|great|good|shorter|more|stronger|"
    r"wonderful|excellent|interesting|classic)|"
    r"\bnot (?:worth|for me|as (?:good|funny|great|interesting|exciting|advertised|described|strong)|my cup|"
    r"recommend|impressed|what i (?:expected|hoped|ordered)|much of|exactly)\b|"
    r"\bwaste of|\bsave your (?:money|time)|\bg[ai]ve up\b|\b(?:could|can|did)(?:n't| ?not) (?:even )?(?:finish|"
    r"get (?:into|past|through)|care less|stand|connect|recommend|wait (?:to|for it to) (?:finish|end|be over)|"
    r"wait until it)|"
    r"\bdnf\b|\b(?:a|such a|big|huge|major) let-?down\b|\blets? (?:me|us|it|you) down\b|\bf[ea]ll?s? (?:flat|"
    r"short|apart)|\bleft me cold|\bforgettable\b|\bstay away\b|\b(?:don't|do not|not) (?:bother|buy|waste|"
    r"expect)|\bskip (?:it|this)\b|"
    r"\b(?:returned|returning|sent) (?:it|them|this)(?: back)?\b|\bstopped working\b|\b(?:broke|died|"
    r"failed) (?:after|within|on|in)\b|\bmoney back\b|\bdrag(?:s|ged|ging)?\b|\bthrough the motions|"
    r"\bby[- ]the[- ]numbers|"
    r"\bautopilot\b|\btoo (?:long|slow|much|many|short|predictable|salty|loud|expensive|thin|heavy|preachy|"
    r"sentimental)|\bnothing (?:special|new|to write home|happens)|\bover(?:rated|hyped|priced|long|stays)\b|"
    r"\bderivative\b|\bcontrived\b|\bpreachy\b|\bformulaic\b|\btedious\b|\bslog\b|\bbland\b|\bpredictable\b|"
    r"\black(?:s|ed|ing)\b|\bwatch(?:ing)? paint dry|\b(?:never|nor) (?:comes? (?:to life|together|alive)|"
    r"takes? off|quite)|"
    r"\bless than (?:the sum|\w+ing)|\bfail(?:s|ed)? to\b|\brunning out of (?:ideas|steam)|\bout of steam|"
    r"\bhow not to\b|\bunderwhelm\w*|\bunwatchable|\bunreadable",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:hardly|barely|scarcely|far from|anything but|neither|isn't|wasn't|aren't|weren't|is not|was not|"
    r"are not|were not|doesn't|didn't|does not|did not|never)\b(?:\s+\w+){0,4}?\s+"
    r"(?:\w+ly\s+)?(?:an?\s+|the\s+)?(?:good|great|funny|fun|interesting|enjoy\w*|like|love|works?|worth\w*|"
    r"excit\w+|engag\w+|charm\w*|gripping|thrill\w*|masterpiece|classic|best|clever|impress\w*|"
    r"recommend\w*|satisf\w+|amus\w+|convinc\w+|original|entertain\w*|fresh|pleasant|happy|memorable|help\w*|friendly)\b|"
    r"\bno (?:masterpiece|classic|gem|fun|charm|wit|life|tension|joy|chemistry|surprises?|laughs|humou?r|"
    r"substance|flavou?r)\b|\bwithout (?:any |much )?(?:charm|wit|humou?r|joy|tension|life|heart|flavou?r)\b|"
    r"\bif only\b|\bwould be (?:good|great|fine|nice|better) if\b",
    re.IGNORECASE,
)
_IRONY = re.compile(
    r"(?:^|[.!?,;—–-]\s*|\b(?:oh|well|wow),?\s+)how (?:very |utterly |absolutely )?(?:thrilling|original|exciting|"
    r"wonderful|nice|lovely|surprising|convenient|clever|fun|delightful|novel|charming|refreshing|"
    r"touching)\s*[.!…]*$|"
    r"\byet another\b|\b(?:be my guest|knock yourself out)\b|\boh,? (?:joy|goody|great|boy)\b|"
    r"\bthanks for nothing\b|\bwhat a (?:surprise|shock|shocker|treat)\s*[.!…]*$|\bso[- ]called\b|\bas if that\b|"
    r"\byawn\b|"
    r"\b(?:this|the|its|their|a|an|of|with|for)\s+(?:\w+\s+)?[\"'](?:comedy|thriller|drama|hero(?:ine)?|art|plot|"
    r"story|jokes?|humou?r|romance|twist|service|acting|performance|quality|gourmet|fresh|authentic|deluxe|"
    r"premium|"
    r"surprise|mystery|suspense|music|film|movie|book|novel|literature|science|food|meal|special|customer service|"
    r"new|improved|luxury|classic|masterpiece|funny|action|adventure|professional|help|support)[\"']",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"\bif (?:you|your idea of \w+|watching|you're)\b(?P<what>[^,.;]*)[,;]?\s*(?:then\s+)?(?:by all means|"
    r"go (?:right )?ahead|(?:this|it|here)(?:'s| is| will be| may be| might be)\b|you(?:'ll| will) (?:love|enjoy|"
    r"like))",
    re.IGNORECASE,
)
_UNWANTED = re.compile(
    r"\b(?:bor(?:ing|ed|edom)|dull|awful|terrible|horrible|bad|worst|stupid|dumb|lousy|clich[eé]\w*|pain|"
    r"headaches?|cheap|rude|lame|mindless|pointless|endless|wast\w+)\b",
    re.IGNORECASE,
)
_GRANTED_HALF = re.compile(
    r"^(?:despite|although|though|even though|while|for all)\b(?P<granted>[^,;]*)[,;]\s*(?P<rest>.+)$", re.IGNORECASE
)
# Phrases that say nothing, as they stand before praise and complaints alike.
_FORMULA = re.compile(
    r"\bthis persona appreciates this item because\b|\bthis persona's experience (?:at|with|"
    r"of) this \w+ is defined by\b|\bappreciates? this (?:item|book|place|restaurant|product|film|movie)\b",
    re.IGNORECASE,
)
_GENERAL = re.compile(
    r"\b(?:dislikes?|avoids?|hates?|is bored by|cannot stand|(?:has|have) no (?:patience|time) for|(?:do|"
    r"does) not (?:like|enjoy|care for)|prefers? \w+ (?:over|to))\b",
    re.IGNORECASE,
)
_NAME_AGAINST = re.compile(
    r"\b(?:disappointed|frustrated|dissatisfied|unhappy|disgruntled|unimpressed|annoyed|let-?down|disillusioned|"
    r"displeased|disenchanted|bored|discontented|underwhelmed)\b",
    re.IGNORECASE,
)
_NAME_CRITIC = re.compile(
    r"\b(?:critic|critical|skeptic(?:al)?|sceptic(?:al)?|complainer|detractor|critiquer?)\b", re.IGNORECASE
)
_NAME_FOR = re.compile(
    r"\b(?:lovers?|enthusiasts?|fan(?:s|atic)?|aficionado|devotee|admirer|regular|loyal\w*|connoisseur|delighted|"
    r"happy|satisfied)\b",
    re.IGNORECASE,
)


def stated_polarity(name: str, description: str, rationale: str) -> Polarity:
    """What a persona's own words say that this kind of person feels about the item, whatever polarity it claims.

    Critical: what speaks against the item outweighs what speaks for it, and some of it is about this item and no habit of
    the person; mixed: it has a real share. A persona that says nothing for or against is appreciative, as it tells only
    what somebody looks for.
    """
    name_minus, name_plus = _name_balance(name)
    about_person = [_clause_balance(*each, is_rationale=False) for each in _persona_clauses(description)]
    about_item = [_clause_balance(*each, is_rationale=True) for each in _persona_clauses(rationale)]
    against = NAME_WEIGHT * name_minus + RATIONALE_WEIGHT * sum(minus for minus, _ in about_item)
    favour = NAME_WEIGHT * name_plus + RATIONALE_WEIGHT * sum(plus for _, plus in about_item)
    against += DESCRIPTION_WEIGHT * sum(minus for minus, _ in about_person)
    favour += TASTE_WEIGHT * sum(plus for _, plus in about_person)
    total = against + favour
    share = against / total if total else 0.0
    happened_here = sum(minus for minus, _ in about_item) + (name_minus if name_minus >= 1 else 0)
    happened_here += sum(minus for minus, _ in about_person if minus >= 1)
    if share >= CRITICAL_SHARE and happened_here >= MIN_ABOUT_ITEM:
        return "critical"
    return "mixed" if share >= MIXED_SHARE else "appreciative"


def sentence_stance(text: str) -> float:
    """How a sentence of a review feels about what it reviews: -1 (a complaint) to 1 (praise), 0 where it does not tell.

    VADER's compound score, moved by phrases that say the opposite of their words ("could not put it down", "put me to
    sleep"), by praise that is denied or only wished for, and turned where the sentence is plainly meant ironically.
    """
    line = " ".join(text.replace("’", "'").replace("“", '"').replace("”", '"').split())
    granted = _GRANTED_HALF.match(line)
    if granted:
        return round(0.25 * _stance(granted["granted"]) + 0.75 * _stance(granted["rest"]), 4)
    return round(_stance(line), 4)


@cache
def feeling_words() -> frozenset[str]:
    """The words, lower-cased, that people say feelings with."""
    return frozenset(word for word in _vader().lexicon if word.isalpha())


def _stance(line: str) -> float:
    compound = float(_vader().polarity_scores(_THEMES.sub(" ", line))["compound"])
    praised, complained = (len(set(map(str.lower, pattern.findall(line)))) for pattern in (_PRAISE, _COMPLAINT))
    if praised or complained:
        compound = 0.35 * compound + 0.7 * (praised - complained)
    elif compound > 0 and _DENIED.search(line):
        compound = -max(0.4, 0.7 * compound)
    if _IRONY.search(line) or _says_so_to_those_who_like_it(line):
        compound = min(compound, -0.5)
    return max(-1.0, min(1.0, compound))


def _says_so_to_those_who_like_it(line: str) -> bool:
    """ "If you enjoy watching paint dry, this is for you": an invitation to what nobody wants."""
    offer = _OFFER.search(line)
    if offer is None:
        return False
    return bool(_COMPLAINT.search(offer["what"]) or _UNWANTED.search(offer["what"]))


def _name_balance(name: str) -> tuple[float, float]:
    if _NAME_AGAINST.search(name):
        return 1.0, 0.0
    if _NAME_CRITIC.search(name):
        return 0.5, 0.0
    return 0.0, 0.5 if _NAME_FOR.search(name) else 0.0


def _clause_balance(clause: str, following: str, is_rationale: bool) -> tuple[float, float]:
    """(against, for) of one clause of a persona, each 0 to 1.5; `following` is the clause after it, "" for the last."""
    minus = max((cue.weight for cue in _AGAINST if _found(cue, clause)), default=0.0)
    plus = max((cue.weight for cue in _FOR if _found(cue, clause)), default=0.0)
    is_contrasted = is_rationale and _TURN.match(following) is not None and not minus
    if is_contrasted and _MERIT.search(clause):
        # "they value the story but ...": where a complaint follows, the first half is what they grant the item.
        plus = 1.0
    elif plus and _WISH.search(clause):
        plus = min(plus, 0.3)
    if not minus and not plus:
        compound = _vader().polarity_scores(_THEMES.sub(" ", clause))["compound"]
        minus, plus = (WORD_WEIGHT * max(0.0, sign * compound) for sign in (-1, 1))
    if minus and plus:
        # A feeling of this person about a good thing that was missing is no praise of it.
        plus = min(plus, 0.3) if minus >= 1.0 else plus
    if not is_rationale and minus and _CONDITION.search(clause):
        minus *= 0.5
    if not is_rationale and minus and _GENERAL.search(clause):
        minus *= 0.3
    if _CONCLUSION.match(clause):
        minus, plus = minus * 0.5, plus * 0.3
    if _GRANTED.match(clause):
        minus, plus = minus * 0.4, plus * 0.4
    elif _TURN.match(clause):
        minus, plus = minus * TURN_WEIGHT, plus * TURN_WEIGHT
    return minus, plus


def _found(cue: _Cue, clause: str) -> bool:
    return any(not _NEGATED.search(clause[: match.start()]) for match in cue.pattern.finditer(clause))


def _persona_clauses(text: str) -> list[tuple[str, str]]:
    """Each clause with the one after it."""
    pieces = _CLAUSE.split(_FORMULA.sub(" ", text.replace("’", "'")))
    told = [piece.strip() for piece in pieces if piece.strip()]
    return list(zip(told, [*told[1:], ""], strict=True))


@cache
def _vader() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()
