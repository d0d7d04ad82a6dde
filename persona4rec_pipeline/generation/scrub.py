"""Personal data in strangers' texts: found, and replaced by plain placeholders.

Belongs here: e-mail addresses, phone numbers, card numbers, links, street addresses and handles, also where they are
spelt so as to slip through ("name at example dot com", full-width digits, spaced digits), and `publishable`, the last
thing that happens to a text before it is shown. Does not belong here: what a text asks for (`personas/hostile.py`).

What is looked for is contact data, not names: "Ann from Leeds" stays. Prefers to leave a doubtful number alone, since
reviews are full of years, prices, gauges and model numbers; a number that is called one ("call 555 0123") is believed.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

from persona4rec_pipeline.generation.cleaning import harmless_line, is_invisible, visible, without_markup

PLACEHOLDERS = {
    "e-mail": "(e-mail)",
    "phone": "(phone)",
    "card number": "(card number)",
    "link": "(link)",
    "address": "(address)",
    "handle": "(handle)",
}

# Whose national formats are tried; international ones (+..., 00...) are known for all.
_REGIONS = ("US", "GB", "DE", "FR", "ES", "IN", "AU")

# Ends of host names that are no word of any language, and those that are believed only with more to go by.
_PLAIN_ENDS = "com|net|org|biz|io|xyz|ru|cn|uk|fr|eu|edu|gov|dev|example|cc|gg|au|jp|nl|pl|dk|mx|kr|br|invalid|onion"
_DOUBTFUL_ENDS = (
    "info|app|shop|store|online|site|top|club|live|life|link|click|sale|deals|blog|tech|pro|vip|win|bid|de|es|it|us|in|"
    "ch|at|be|se|no|fi|ie|nz|za|tr|tv|me|ly|to|fm|ai|co|ca|test|local"
)
_ENDS = f"(?:{_PLAIN_ENDS}|{_DOUBTFUL_ENDS})"
# Said of the firm more often than as an address; with a path or another host they are links like any other.
_HOUSEHOLD_NAMES = frozenset(
    """
    amazon.com amazon.co.uk amazon.ca amazon.de amazon.fr ebay.com imdb.com netflix.com youtube.com google.com
    rottentomatoes.com salon.com slate.com yelp.com tripadvisor.com goodreads.com wikipedia.org apple.com walmart.com
    musiciansfriend.com guitarcenter.com zzounds.com sweetwater.com ultimate-guitar.com booking.com
    """.split()
)

_EMAIL = re.compile(r"@?[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b")
_AT = r"(?:\s{0,2}@\s{0,2}|\s{0,2}[(\[{<]\s{0,2}(?:at|@|arroba|bei)\s{0,2}[)\]}>]\s{0,2}|\s{1,2}at\s{1,2})"
_DOT = r"(?:\s{0,2}[(\[{<]\s{0,2}(?:dot|\.|punkt|point|punto)\s{0,2}[)\]}>]\s{0,2}|\s{1,2}dot\s{1,2}|\s?\.\s?)"
_SPELT_EMAIL = re.compile(
    rf"(?<![\w-])(?:[\w+-]{{1,64}}{_DOT}){{0,2}}[\w+-]{{1,64}}({_AT})([\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}}){{0,3}}?(?:{_DOT}{_ENDS}){{1,2}})\b",
    re.IGNORECASE,
)
_SPELT_SIGN = re.compile(r"\bdot\b|punkt|point|punto|[(\[{<]\s{0,2}\.", re.IGNORECASE)
_SCHEME_LINK = re.compile(
    r"\b(?:h\s{0,2}(?:t\s{0,2}t|xx)\s{0,2}p\s{0,2}s?|ftp)\s{0,2}:\s{0,2}/\s{0,2}/\s{0,2}\S+|\bwww\d?\s?\.\s?[\w-]\S*|"
    r"\b(?:tel|sms):(?=\S*\d)\S+|\b(?:javascript|vbscript):\S*|\bdata:\w{1,20}/\S+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r":\S|:\s{0,2}/|[wW]{3}")
_DOTTED = re.compile(r"\.(?:[^\W\d_]{2}|\d{1,3}\.\d{1,3}\.\d)")
_HOST_LINK = re.compile(
    rf"(?<![\w@.-])((?:[^\W_](?:[\w-]{{0,61}}[^\W_])?\.){{1,6}})({_ENDS})\b(?!\.?\w)(:\d{{2,5}})?([/?#]\S*)?",
    re.IGNORECASE,
)
_NUMBER_LINK = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?:(?::\d{2,5})(?:/\S*)?|/[^\s\d]\S*)")
_SPELT_HOST = re.compile(
    r"(?<![\w-])(?:www\s+dot\s+)?(?P<name>[\w-]{2,63})(?:\s{0,2}[(\[{]\s?(?:dot|\.)\s?[)\]}]\s{0,2}|\s{1,2}dot\s{1,2})"
    r"(?P<end>com|net|org|biz|info|io|shop|store|online)\b(?!\s+(?:bubble|boom|bust|era|crash|compan|million|start|craze|crowd|world|mogul|entrep))"
    r"(?:\s{0,2}(?:slash|/)\s{0,2}[\w-]+)*",
    re.IGNORECASE,
)
_BEFORE_DOT_COM = frozenset("the a an that this of and or new old late early big 90s 1990s s any some every".split())
_GO_THERE = re.compile(
    r"(?:visit|go\s+to|going\s+to|check\s+(?:out|it\s+out\s+at)|see|click|order\s+(?:from|at|on)|buy\s+(?:from|at|on)|shop\s+at|"
    r"website|site|web|link|url|found\s+(?:at|on)|available\s+(?:at|on)|join|scan|besuche|visita|allez\s+sur)"
    r"[\s:,]{1,3}(?:it\s+at\s+|us\s+at\s+)?$",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d(?:[^\w]{0,3}\d){6}")
_NUMBER = re.compile(r"(?<![\w.,$€£])(?:\+|\(\+?)?\d(?:[\s().\-/]{0,3}\d){6,24}(?![\w])")
_PHONE_CUE = re.compile(
    r"(?:\b(?:call|phone|ring|text|tel|telephone|mobile|cell|fax|whatsapp|signal|sms|dial|hotline|number|contact|reach|telefon|"
    r"anrufen|ruf|llame|llama|tel[eé]fono|appelez|t[eé]l|звоните|тел)\b|电话|☎|📞)[\w\s'’:.,#\-]{0,24}$",
    re.IGNORECASE,
)
_NO_PHONE_CUE = re.compile(
    r"\b(?:isbn|asin|serial|model|part|order|item|upc|ean|sku|invoice)\b[\w\s#:.]{0,14}$", re.IGNORECASE
)
_CARD_CUE = re.compile(
    r"\b(?:card|visa|master\s?card|amex|credit|debit|iban|kreditkarte|tarjeta)\b[\w\s'’:.,#\-]{0,24}$", re.IGNORECASE
)
_DATE = re.compile(r"(?:(?:19|20)\d\d[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ](?:19|20)\d\d)(?!\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_HANDLE = re.compile(r"(?<![\w@.])@(?P<name>[^\W\d]\w{1,29}(?:\.\w{1,29})*)(?!@)")
# "dinner @home": the sign stands for the word.
_AFTER_AT = frozenset(
    """
    home work night noon all least last first once the this that my our your his her their its a an it me us you him
    them school church dinner lunch breakfast times present best worst about any some midnight bedtime
    """.split()
)
_NAMED_HANDLE = re.compile(
    r"\b(?:instagram|insta|ig|twitter|snap|snapchat|telegram|tiktok|discord|skype|whatsapp|wechat|facebook|fb|kik)"
    r"(?:\s+(?:id|handle|name|user(?:name)?|me))?\s?[:=]\s?(?P<name>@?[\w.#-]*[\w#])",
    re.IGNORECASE,
)

# The house number begins with a plain digit class and looks behind afterwards: a search that can skip is ten times faster.
_WORD = r"[A-Z\u00c0-\u00de][\w'’.-]{0,30}"
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Place|Pl|Terrace|Way|Parkway|Pkwy|"
    r"Highway|Hwy|Close|Crescent|Cres|Row|Alley|Plaza|Quay|Gardens|Grove|Circle|Cir|Broadway)"
)
_CITY = r"(?:[A-Z\u00c0-\u00de][^\W\d_]{1,24}(?:[ '’-][A-Z\u00c0-\u00de][^\W\d_]{1,24}\b){0,2})\b"
_POSTCODE = r"(?:(?:[A-Z]{2}\s+)?\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d)"
_TAIL = rf"(?:,?\s+(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Flat|#)\.?\s?#?\w{{1,5}}|,\s*{_CITY}|,?\s+{_POSTCODE}\b)"
_NUMBERED_STREET = re.compile(
    rf"\d(?<![\w$€£.-]\d)\d{{0,4}}[A-Za-z]?,?\s+(?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.?\s+)?"
    rf"(?:(?:{_WORD}|\d{{1,3}}(?:st|nd|rd|th))\s+){{1,3}}{_STREET}\b\.?(?P<tail>{_TAIL}{{0,4}})"
)
_LOWER_STREET = re.compile(
    rf"\d(?<![\w$€£.-]\d)\d{{0,4}}[a-z]?\s+(?:[\w'’]{{2,20}}\s+){{1,3}}{_STREET}\b\.?,?\s+(?:[\w'’-]{{2,20}},?\s+){{0,3}}"
    r"(?:[a-z]{2},?\s+)?\d{5}\b",
    re.IGNORECASE,
)
_FRENCH_STREET = re.compile(
    r"\b\d{1,4}(?:\s?(?:bis|ter))?,?\s+(?:rue|avenue|av\.|boulevard|bd|place|impasse|chemin|quai|allée|cours)\s+"
    rf"(?:(?:de|du|des|de\s+la|de\s+l['’]|la|le|les)\s+)?[\w'’À-ÿ-]{{2,30}}(?:\s+[A-ZÀ-Ý][\w'’À-ÿ-]{{1,30}}){{0,3}}"
    rf"(?P<tail>(?:,?\s+\d{{5}}(?:\s+{_CITY})?|,\s*{_CITY}){{0,2}})"
)
_NUMBER_AFTER = re.compile(
    r"\b(?:[A-ZÄÖÜ][\wäöüß-]{1,30}(?:straße|strasse|str\.|gasse|allee|weg|platz)|(?:[A-ZÄÖÜ][\wäöüß-]{1,30}[- ])(?:Straße|Strasse|Str\.|"
    r"Allee|Platz|Weg|Gasse)|(?:[Cc]alle|C/|[Aa]venida|[Pp]aseo|Via|Rua|Ulica|ул\.|улица)\s+(?:de\s+|del\s+|la\s+|los\s+)*"
    rf"[A-ZÀ-ÞА-Я][\wÀ-ÿ'’-]{{1,30}}(?:\s+[A-ZÀ-ÞА-Я][\wÀ-ÿ'’-]{{1,30}})?)[\s,]+(?:n[º°.]\s?|д\.\s?)?\d{{1,3}}[a-z]?\b(?!\s*(?:%|years|Jahre|años))"
    rf"(?P<tail>(?:,?\s+\d{{5}}(?:\s+{_CITY})?|,\s*{_CITY}){{0,2}})"
)
_POST_BOX = re.compile(r"\b(?:P\.?\s?O\.?\s?Box|Postfach|Apartado(?:\s+de\s+correos)?)\s+#?\d{1,7}\b", re.IGNORECASE)
_ADDRESS_CUE = re.compile(
    r"\b(?:address(?:\s+is)?|lives?|living|lived|resid\w+|located|house|home|flat|apartment|office|shop|store|warehouse|send|ship|sent|"
    r"mail|deliver\w*|visit|find|come|meet|write|near|wohnt?|wohne|vive|vivo|habite)\b[\w\s'’:,()-]{0,30}$",
    re.IGNORECASE,
)
# Words that every address of one of the forms has, with the punctuation that may end them, and endings of German ones;
# looked for first, because that is ten times faster.
_STREET_WORDS = frozenset(
    f"{word}{end}"
    for word in """street st avenue ave road rd boulevard blvd lane ln drive dr court ct square sq place pl terrace way
    parkway pkwy highway hwy close crescent cres row alley plaza quay gardens grove circle cir broadway rue av bd impasse
    chemin quai allée cours calle c/ avenida paseo via rua ulica ул улица box postfach apartado""".split()
    for end in ("", ".", ",", ";", ":", "!", "?")
)
_GERMAN_ENDINGS = ("straße", "strasse", "str.", "gasse", "allee", "weg", "platz")
# Punctuation that ends the sentence, not the link.
_AFTER_LINK = ".,;:!?)'\"»”’›]}>"

Found = tuple[str, int, int]


def scrub(text: str) -> str:
    """`text` with each piece of personal data replaced by its placeholder; applying it again changes nothing."""
    while found := find_personal_data(text):
        parts: list[str] = []
        end_of_last = 0
        for kind, start, end in found:
            parts += [text[end_of_last:start], PLACEHOLDERS[kind]]
            end_of_last = end
        text = "".join([*parts, text[end_of_last:]])
    return text


def find_personal_data(text: str) -> list[Found]:
    """(kind, start, end) of each piece of personal data, in order, none overlapping; characters [start, end) of `text`.

    kind is a key of PLACEHOLDERS.
    """
    if text.isascii():
        return _without_overlaps(_find(text))
    folded, places = _fold(text)
    return [(kind, places[start], places[end - 1] + 1) for kind, start, end in _without_overlaps(_find(folded))]


def publishable(text: str) -> str:
    """What may be shown to people, on one line: no personal data, no markup, no invisible characters.

    For everything of strangers or of a model that is published: names, descriptions, rationales, quotes, titles,
    summaries. Applying it twice changes nothing. Whoever shows it still escapes it for the place where it is shown.
    """
    text = visible(text)
    # Removing one thing can bring together another, so: to the end.
    while (cleaned := scrub(harmless_line(without_markup(text)))) != text:
        text = cleaned
    return text


def _find(text: str) -> Iterator[Found]:
    """Everything found, in the order in which one kind wins over another; may overlap."""
    has_dot_word = "dot" in text or "DOT" in text or "Dot" in text
    has_at = "@" in text
    if has_at or has_dot_word or "(at)" in text or "[at]" in text or "(AT)" in text:
        yield from (("e-mail", *match.span()) for match in _EMAIL.finditer(text) if has_at)
        yield from _spelt_emails(text)
    yield from _links(text, has_dot_word)
    has_digit = any(digit in text for digit in "0123456789")
    if has_digit:
        if _DIGITS.search(text):
            yield from _numbers(text)
        yield from _addresses(text)
    if has_at:
        for match in _HANDLE.finditer(text):
            if match["name"].lower() not in _AFTER_AT:
                yield "handle", *match.span()
    if ":" in text or "=" in text:
        yield from (("handle", *match.span("name")) for match in _NAMED_HANDLE.finditer(text) if len(match["name"]) > 2)


def _spelt_emails(text: str) -> Iterator[Found]:
    for match in _SPELT_EMAIL.finditer(text):
        # "look at imdb.com" names no mailbox: a plain "at" needs a spelt dot, and an @ with spaces a compact host.
        plain = match[1].strip().lower() == "at"
        if plain and not _SPELT_SIGN.search(match[2]):
            continue
        if "@" not in match[1] or _SPELT_SIGN.search(match[2]) or not re.search(r"\.\s", match[2]):
            yield "e-mail", *match.span()


def _links(text: str, has_dot_word: bool) -> Iterator[Found]:
    for match in _SCHEME_LINK.finditer(text) if _SCHEME.search(text) else ():
        end = match.start() + len(match.group().rstrip(_AFTER_LINK))
        yield "link", match.start(), max(end, match.start() + 4)
    if _DOTTED.search(text):
        for match in _HOST_LINK.finditer(text):
            if _is_link(text, match):
                yield "link", match.start(), match.start() + len(match.group().rstrip(_AFTER_LINK))
        yield from (("link", *match.span()) for match in _NUMBER_LINK.finditer(text))
    if has_dot_word or "(.)" in text or "[.]" in text:
        for match in _SPELT_HOST.finditer(text):
            if match["name"].lower() not in _BEFORE_DOT_COM:
                yield "link", *match.span()


def _is_link(text: str, match: re.Match[str]) -> bool:
    labels = match[1].strip(".").split(".")
    if match[3] or (match[4] and match[4][0] in "/?" and len(match[4]) > 1 and match[4][1] not in " /"):
        # "and/or" has no dot; "his.in/out" has, and is no link.
        return (
            bool(re.fullmatch(_PLAIN_ENDS, match[2], re.IGNORECASE))
            or len(labels) > 1
            or "-" in labels[-1]
            or len(match[4] or "") > 4
        )
    host = f"{match[1]}{match[2]}".lower()
    if host in _HOUSEHOLD_NAMES:
        return False
    if re.fullmatch(_PLAIN_ENDS, match[2], re.IGNORECASE):
        # "great sound.Ca" and "1.5.Com": a host is at least one longer word.
        return any(len(label) > 1 and not label.isdigit() for label in labels)
    if not match[2].islower():
        return False
    long = all(len(label) > 1 and not label.isdigit() for label in labels)
    return long and (len(labels) > 1 or "-" in labels[0] or bool(_GO_THERE.search(text, 0, match.start())))


def _numbers(text: str) -> Iterator[Found]:
    for match in _IBAN.finditer(text):
        from stdnum import iban

        if iban.is_valid(match.group()):
            yield "card number", *match.span()
    for match in _NUMBER.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        groups = re.findall(r"\d+", match.group())
        before = text[max(0, match.start() - 48) : match.start()]
        if _is_card(digits, groups, before):
            yield "card number", *match.span()
        elif _is_plain_number(digits, groups, match.group()):
            continue
        elif _is_phone(digits, groups, match.group(), before):
            yield "phone", *match.span()
        elif len(groups) > 1 and not _NO_PHONE_CUE.search(before):
            yield from (("phone", match.start() + start, match.start() + end) for start, end in _matched(match.group()))


def _is_card(digits: str, groups: list[str], before: str) -> bool:
    from stdnum import luhn

    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2 or _NO_PHONE_CUE.search(before):
        return False
    if _CARD_CUE.search(before):
        return True
    printed = len(groups) == 1 or [len(group) for group in groups][:3] in ([4, 4, 4], [4, 6, 5], [4, 6, 4])
    spaced = all(len(group) == 1 for group in groups)
    return digits[0] in "23456" and (printed or spaced) and luhn.is_valid(digits)


def _is_plain_number(digits: str, groups: list[str], written: str) -> bool:
    """Numbers that reviews are full of: dates, years, counting, decimals, ISBNs."""
    from stdnum import ean, isbn

    if _DATE.match(written) or (len(groups) == 2 and len(groups[0]) < 4 and f"{groups[0]}.{groups[1]}" == written):
        return True
    if all(len(group) == 4 and group[:2] in ("18", "19", "20") for group in groups):
        return True
    values = [int(group) for group in groups]
    steps = {after - value for value, after in itertools.pairwise(values)}
    if len(groups) > 2 and len(steps) == 1:
        return True
    if len(set(digits.lstrip("1"))) < 2:
        return True
    return (len(digits) == 13 and digits.startswith(("978", "979")) and ean.is_valid(digits)) or (
        len(digits) == 10 and len(groups) in (1, 4) and isbn.is_valid(digits) and not written.startswith(("(", "+"))
    )


def _is_phone(digits: str, groups: list[str], written: str, before: str) -> bool:
    if _PHONE_CUE.search(before):
        return len(digits) <= 15
    if _NO_PHONE_CUE.search(before):
        return False
    international = "+" in written[:2] or (digits.startswith("00") and len(digits) > 10)
    if international:
        return 8 <= len(digits) <= 15
    if not 9 <= len(digits) <= 12:
        return False
    # Groups of one digit hide a number, groups of any size at all are a list of things.
    if all(len(group) == 1 for group in groups):
        written = digits
    return any(start == 0 for start, _ in _matched(written))


def _matched(written: str) -> list[tuple[int, int]]:
    """Where, in a run of digits and separators, a number stands that is in use somewhere."""
    import phonenumbers

    # Part numbers look like phone numbers but for their groups; without any groups there is less to go by.
    in_groups = len(re.findall(r"\d+", written)) > 1
    leniency = phonenumbers.Leniency.STRICT_GROUPING if in_groups else phonenumbers.Leniency.VALID
    found: set[tuple[int, int]] = set()
    for region in _REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(written, region, leniency=leniency):
            if sum(character.isdigit() for character in match.raw_string) >= 9:
                found.add((match.start, match.end))
    return sorted(found)


def _addresses(text: str) -> Iterator[Found]:
    lowered = text.lower()
    if _STREET_WORDS.isdisjoint(lowered.split()) and not any(ending in lowered for ending in _GERMAN_ENDINGS):
        return
    for pattern in (_NUMBERED_STREET, _LOWER_STREET, _FRENCH_STREET, _NUMBER_AFTER, _POST_BOX):
        for match in pattern.finditer(text):
            # A film is called "10 Cloverfield Lane": without a city, a flat or "I live at", such a street is no address.
            is_plain = pattern in (_NUMBERED_STREET, _FRENCH_STREET) and not match["tail"]
            if not is_plain or _ADDRESS_CUE.search(text[max(0, match.start() - 48) : match.start()]):
                yield "address", *match.span()


def _without_overlaps(found: Iterator[Found]) -> list[Found]:
    kept: list[Found] = []
    for entry in found:
        if entry[1] < entry[2] and not any(entry[1] < end and start < entry[2] for _, start, end in kept):
            kept.append(entry)
    return sorted(kept, key=lambda entry: entry[1])


def _fold(text: str) -> tuple[str, list[int]]:
    """`text` with compatibility forms, foreign digits and dashes made plain and invisible characters left out, and the
    place of each of its characters in `text`."""
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character.isascii():
            plain = character
        elif is_invisible(character):
            continue
        elif unicodedata.category(character) == "Pd" or character == "\u2212":
            plain = "-"
        elif character in "。｡․":
            plain = "."
        elif (value := unicodedata.digit(character, None)) is not None:
            plain = str(value)
        else:
            plain = unicodedata.normalize("NFKC", character)
        characters += plain
        places += [place] * len(plain)
    return "".join(characters), places
