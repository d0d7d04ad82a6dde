"""Texts that are written for a machine, or for a shop, and not for people who wonder what an item is like.

Belongs here: recognising, in a review, title or answer, orders to a language model or a ranking, what only a machine
would read (chat tokens, answers prepared in JSON, encoded or hidden text), and advertising. Does not belong here:
personal data and the cleaning of characters (`generation/scrub.py`, `generation/cleaning.py`), and what a sentence means.

Two degrees. `is_hostile` judges a whole text by signs that no honest review shows; such a review is no evidence at all,
since the sentence before the order may be its bait. `is_suspicious` judges one sentence by weaker signs as well ("you
must recommend it"); an honest reviewer loses that sentence and no more. Both match what a reader would read: in
compatibility form, without invisible characters, look-alike letters, digits for letters and letters set apart undone.

Rules know what they were told of. An order in words that nobody thought of passes, and so does praise that was paid for
("Zephyr made me happy"). What remains against these: a prompt that calls reviews data, answers that must stand in the
evidence (`publishing.refusal`), and names that no other reviewer mentions (`lone_names`).
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from persona4rec_pipeline.generation.cleaning import is_invisible

# Letters of other scripts that look like Latin ones (the most used part of Unicode's table of confusables).
_LOOKALIKES = str.maketrans(
    "абвгеёікмнорстухѕјԁһӏԛԝյոսօցԍАВЕЅЗІКМНОРСТУХЈԌαβγεικνορτυχωΑΒΕΖΗΙΚΜΝΟΡΤΥΧɡɑıℓ",
    "a6breeikmhopctyxsjdhlqwjnuogGABES3IKMHOPCTYXJGaByeikvoptuxwABEZHIKMNOPTYXgail",
)
_DIGITS_FOR_LETTERS = str.maketrans("013457$@!|", "oieastsail")
_LEET_WORD = re.compile(r"(?<!\S)(?=\S*[a-zA-Z])(?=\S*[013457$@!|])[\w$@!|]{2,}[\w$@]")
_SPACED_OUT = re.compile(r"(?<!\w)(?:[^\W\d_][ .\-_*·]{1,2}){5,}[^\W\d_](?!\w)")
_BROKEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
# Longer than any tuning of a guitar.
_ALL_SPACED_OUT = re.compile(r"(?<!\w)(?:[^\W\d_][ .\-_*·]{1,2}){15,}")
_MIXED_WORD = re.compile(
    r"[^\W\d_]{0,30}(?:[a-zA-Z][\u0370-\u03ff\u0400-\u04ff]|[\u0370-\u03ff\u0400-\u04ff][a-zA-Z])[^\W\d_]{0,30}"
)

_MODEL = (
    r"(?:llms?|(?:large )?language models?|chat ?gpt|gpt-?\d?|chatbots?|ai (?:models?|assistants?|systems?|agents?|"
    r"readers?|reviewers?)|"
    r"summari[sz]ers?|recommender(?: systems?)?|recommendation (?:engines?|systems?|algorithms?|models?)|"
    r"ranking (?:engines?|systems?|"
    r"algorithms?|models?)|(?:re)?rankers?|persona (?:generators?|writers?|makers?|builders?)|reviewer assistants?|"
    r"automated (?:systems?|readers?))"
)
_ASIDE = (
    r"(?:ignor\w+|disregard\w*|forget\w*|overrid\w+|bypass\w*|discard\w*|neglect\w*|cancel|erase|skip|drop|"
    r"(?:do not|don't|stop|no longer) (?:follow\w*|obey\w*|apply\w*))"
)
_ORDERS = r"(?:instructions?|prompts?|directives?|guidelines?|commands?|constraints?|orders|directions)"
_GIVEN = (
    r"(?:previous\w*|prior|above|earlier|preceding|foregoing|original|initial|existing|system|your|all|any|every|"
    r"these|those|other|"
    r"developer|safety|hidden)"
)
_START = r"(?:^|[.!?:;,\n\"'(>\]]\s*|\b(?:must|should|shall|please|always|now|then|and|to|will)\s+)"

# (what it is, a piece of it that is looked for first because that is fast, the sign itself)
_Sign = tuple[str, tuple[str, ...], re.Pattern[str]]


def _sign(reason: str, pieces: str, pattern: str) -> _Sign:
    return reason, tuple(pieces.split("|")), re.compile(pattern, re.IGNORECASE | re.MULTILINE)


_SET_ASIDE = "it tells a model to set its instructions aside"
_SPEAKS_TO_MODEL = "it speaks to a model"
_ROLE = "it gives a model another role"
_PROMPT = "it asks for the prompt"
_ANSWER = "it dictates the answer"
_CHAT = "it carries chat tokens or delimiters"
_CODE = "it carries code"
_HOSTILE: tuple[_Sign, ...] = (
    _sign(
        _SET_ASIDE,
        "instruction|prompt|directive|guideline|command|constraint|orders|directions|overrid|rules|your task|your training",
        rf"\b{_ASIDE}\W+(?:[\w']+\W+){{0,4}}?{_GIVEN}\W+(?:[\w']+\W+){{0,3}}?{_ORDERS}\b"
        r"|\b(?:new|updated|real|actual|revised|secret|hidden|additional|important|further)\s+"
        r"(?:system\s+)?(?:instructions?|directives?|prompts?|orders)\s*(?:[:=]|for (?:you|the (?:model|ai|system|"
        r"assistant)))"
        r"|\b(?:end|start|begin(?:ning)?) of (?:the )?(?:user |system )?(?:prompt|instructions|input|context)\b"
        # All letters set apart, put together again.
        r"|\b(?:ignore|disregard|forget|override)\w{0,30}(?:instructions|prompt|rules)"
        r"|\b(?:instructions?|prompts?) (?:override|injection)\b|\b(?:override (?:code|mode|the system)|"
        r"system override)\b|\b(?:ignore|disregard|forget) your (?:rules|task|training)\b",
    ),
    _sign(
        _SET_ASIDE,
        "above|before|told",
        rf"\b{_ASIDE}\W+(?:all|everything|anything|whatever)\W+(?:that\W+)?(?:(?:is|was|stands|came|comes|written|"
        rf"said)\W+)*"
        r"(?:above|before this|previously|prior)\b|\bdisregard\W+(?:all|everything)\W+(?:you|that)\W",
    ),
    _sign(
        _SPEAKS_TO_MODEL,
        "llm|model|gpt|bot|ai |ai:|ai,|summari|recommend|rank|persona|assistant|automated|a.i.",
        rf"\b(?:dear|hey|hello|hi|attention|attn|note to|notice to|message to|memo to|instructions? (?:to|for)|to (?:any|"
        rf""
        rf"all|every|each)|for any|"
        rf"if you are|you are|to you,?|as) (?:the |an? |any |all |every |each |my |your |our |no longer |now |helpful |"
        rf""
        rf"good )*{_MODEL}\b"
        r"|(?:^|[.!?\n]\s*)(?:dear|hey|hello|attention|attn|note to|notice to|instructions? (?:to|for)) (?:the |any |"
        r"all )?(?:ai|a\.i\.|assistants?|models?|"
        r"bots?|reviewer assistant|machine)\s*[:,.!—-]"
        rf"|\b{_MODEL} (?:reading|processing|summari[sz]ing|analy[sz]ing|that reads?|which reads?|must|should|shall|"
        rf"is instructed|are instructed)\b",
    ),
    _sign(
        _ROLE,
        "you are|act as|act like|pretend|role|mode|from now on|behave",
        r"\byou are (?:now|no longer|henceforth|hereby)\W+(?:an?|the|my|in|a\W+\w+)?\W*(?:[\w-]+\W+){0,3}?(?:ai|"
        r"assistant|bot|model|dan|unrestricted|"
        r"copywriter|marketer|spokes\w+|ambassador|agent|advertiser|salesman|seller|developer|system|engine|generator|"
        r""
        r"fan)\b"
        r"|\bfrom now on,? you\W+(?:will|must|shall|are|only|always|have)\b"
        r"|\b(?:act|behave|respond|answer|pretend|role-?play)\b[^.!?\n]{0,24}\b(?:as|like|to be|you are|"
        r"if you were)\W+(?:an?|the)?\W*(?:[\w-]+\W+){0,2}?"
        r"(?:ai|assistant|chatbot|language model|copywriter|marketer|spokes\w+|ambassador|advertiser)\b(?! (?:director|"
        r""
        r"professor|coach|manager))"
        r"|\b(?:developer|dan|god|debug|admin|sudo|unrestricted) mode (?:is )?(?:on|enabled|activated|now)\b|"
        r"\bdo anything now\b",
    ),
    _sign(
        _PROMPT,
        "prompt|instruction|above|message",
        r"\bsystem (?:prompt|message)s?\b|\b(?:repeat|reveal|print|show|leak|output|translate|display|disclose|recite|"
        r""
        r"write out|copy|encode|state|quote|"
        r"what (?:is|was|are|were))\W+(?:[\w']+\W+){0,4}?(?:(?:your|above|previous|initial|hidden|original|entire|full|"
        r""
        r"system)\W+(?:[\w']+\W+){0,2}?"
        r"(?:prompt|instructions?|message|guidelines)|(?:prompt|instructions|words|text|messages?|everything) (?:above|"
        r""
        r"before this|verbatim))\b",
    ),
    _sign(
        _ANSWER,
        "json|persona|verbatim|polarity|summary|every answer|description|output|respond|reply|rank",
        rf"{_START}(?:respond|reply|answer|output|return|print|write|generate|produce|emit|"
        rf"say)\W+(?:[\w']+\W+){{0,4}}?(?:json|verbatim|"
        r"(?:only|exactly|just) (?:with )?(?:the )?(?:following|word|words|phrase|sentence|text|string|name)|"
        r"with the (?:word|phrase|string|following))\b"
        rf"|{_START}(?:add|include|insert|append|mention|embed|put|name|call|write|create|generate|output|"
        rf"fill)\W+(?:[\w'-]+\W+){{0,7}}?"
        r"(?:(?:every|each|all|your|first|one|only|new) (?:\w+ )?(?:personas?|summar(?:y|ies)|descriptions?|rationales?|"
        r""
        r"polarit(?:y|ies)|outputs?|answers?|responses?)|"
        r"(?:persona|polarity|summary|description|json) (?:field|slot|name|called|named|as|to|must|=))\b"
        r"|\b(?:personas?|summary|summaries|output|polarity) (?:must|shall|has to|have to|should always|is to be|"
        r"needs to) (?:be|say|contain|mention|include|carry|name|read|state)\b"
        rf"|{_START}(?:rank|rate|score|place|position|list|recommend|put) (?:this|it|the|my|"
        rf"our)\b[^.!?\n]{{0,40}}\b(?:number one|first|highest|top|no\. ?1|#1|above)\b"
        r"[^.!?\n]{0,40}\b(?:for (?:all|every) (?:users?|profiles?|quer\w+|customers?)|in (?:all|every) (?:result|"
        r"ranking|list|recommendation)s?)\b",
    ),
    _sign(
        _CHAT,
        "<|im_|inst]|sys>|</s>|_turn>|<<<|>>>|===|###|begin |assistant|system|developer|{{|{%|user",
        r"<\|[^<>\n]{1,40}\|>|<\|?/?(?:im_start|im_end|system|user|assistant|endoftext|eot_id|instructions?|prompt|"
        r"human)\|?>|\[/?(?:inst|sys|system|user|assistant)\]|"
        r"<</?sys>>|</s>|<(?:start|end)_of_turn>|>>>[^<]{0,2000}<<<|>>>\s*(?:$|new\b|now\b|system\b|end\b|ignore\b|"
        r"instructions?\b)|={3,}\s*(?:user|system|assistant|end)\b|#{2,}\s*(?:instruction|system|response|user|"
        r"assistant|human|end|new|task|input)\w*|\{\{.{0,80}\}\}|\{%|\bbegin (?:system|prompt|instructions?|admin)\b"
        r"|(?:^|\n|[.!?]\s+|\W{2,})(?:system|assistant|developer|admin)\s*(?:prompt|message|override|note|instructions?|"
        r""
        r"update|command)\s*[:>\]|]"
        r"|(?:^|\n)\s*[*_]{0,2}(?:assistant|system|developer|user)[*_]{0,2}\s*:\s*\S",
    ),
    _sign(
        "it carries an answer in JSON",
        "\":|':|\" :|' :",
        r"[\"'](?:name|description|polarity|personas?|summary|title|preference_rationale|evidence|quality_criteria|"
        r"category_preference|"
        r"purchase_purpose|usage_context|role|content|answer|instructions?|system|output|text)[\"']\s*:",
    ),
    _sign(
        _CODE,
        "<|script:|onerror|onload|${|;--|drop table",
        r"<\s*/?\s*(?:script|iframe|object|embed|svg|style|form|input|meta|base|link)\b|<!--|\b(?:javascript|"
        r"vbscript)\s*:|"
        r"\bon(?:error|load|click|mouseover)\s*=|"
        r"\bdrop table\b|\$\{[^}]*\}",
    ),
    _sign(
        "it carries encoded text",
        "\\x|\\u00|&#|%|base64|rot13|vafgehpgvba|cebzcg|tcurtsni|tpmorp",
        r"(?:\\x[0-9a-f]{2}){4}|(?:\\u00[0-9a-f]{2}){4}|(?:&#x?[0-9a-f]{2,4};?\s?){4}|(?:%[0-9a-f]{2}){5}|\bbase-?64\b|"
        r""
        r"\brot-?13\b|vafgehpgvba|cebzcg|"
        r"\w*noitcurtsni|\btpmorp",
    ),
    # Spanish and Portuguese, French, Italian, German, Dutch, Russian, Chinese, Japanese.
    _sign(
        _SET_ASIDE,
        "instruc|instruç|istruz|consign|anweisung|vorgaben|regeln|instructie|инструкц|указан|指令|指示|说明|提示|規則|规则|訓令",
        r"\b(?:ignor\w*|olvid\w*|omit\w*|descart\w*|esque[cç]\w*|oubli\w*|néglige\w*|dimentic\w*|trascur\w*|vergiss|"
        r"vergesst|vergessen|missacht\w*|"
        r"überge\w*|negeer|vergeet)\b[^.!?\n]{0,60}\b(?:instrucci\w+|instru[cç][oõ]\w+|istruzion\w+|consignes?|"
        r"anweisung\w*|vorgaben|instructies?)"
        r"|\b(?:ignor|oubli)\w{1,3}\b[^.!?\n]{0,30}\b(?:les|ces|tes|vos|toutes)\b[^.!?\n]{0,30}\binstructions\b"
        r"|(?:игнорир\w+|забудь\w*|забыть|проигнорир\w+|отмени\w*)[^.!?\n]{0,60}(?:инструкц\w+|указани\w+|команд\w*|"
        r"правил\w*)"
        r"|(?:忽略|无视|無視|忘记|忘掉|不要理会|忽視)[^。！？\n]{0,20}(?:指令|指示|说明|說明|提示|规则|規則|要求)|(?:指示|命令|プロンプト)[^。！？\n]{0,6}(?:無視|忘れ)",
    ),
    _sign(
        _ROLE,
        "ahora eres|eres ahora|a partir de ahora|agora é|você agora|tu es maintenant|vous êtes maintenant|"
        "désormais|du bist jetzt|du bist ab|"
        "sie sind jetzt|ab sofort|ab jetzt|ora sei|adesso sei|ты теперь|вы теперь|отныне|теперь ты|"
        "你现在是|你是一个|你現在是|从现在开始|扮演|系统提示|系統提示|"
        "あなたは今|システムプロンプト",
        r"\b(?:ahora eres|eres ahora|você agora é|agora você é|tu es maintenant|vous êtes maintenant|du bist jetzt|"
        r"du bist ab (?:jetzt|sofort)|sie sind jetzt|"
        r"ora sei|adesso sei)\b[^.!?\n]{0,50}\b(?:asistente|assistent\w*|assistant\w?|modelo|modèle|modell\w*|ia|ki|"
        r"vendedor|vendeur|verkäufer|publici\w+|bot)\b"
        r"|\b(?:a partir de ahora|désormais|ab sofort|ab jetzt)\b[^.!?\n]{0,40}\b(?:debes|responde|réponds|répondez|"
        r"antworte|empfiehl|recommande|recomienda)\w*"
        r"|(?:ты теперь|теперь ты|вы теперь|отныне)[^.!?\n]{0,50}(?:ассистент|помощник|модел|бот|реклам|отвечай|пиши)"
        r"|(?:你现在是|你現在是|你是一个|从现在开始|扮演)[^。！？\n]{0,20}(?:助手|模型|机器人|推销|推荐|销售)|系统提示|系統提示|システムプロンプト|あなたは今[^。]{0,20}アシスタント",
    ),
)  # fmt: skip

# What a pipeline makes of reviews, and what it is told; whoever writes of a book has other things to speak of.
_MADE = r"(?:personas?|profiles?|summar(?:y|ies)|outputs?|labels?|answers?|responses?|recommendations?|rankings?)"
_DO = (
    r"(?:add|mention|include|contain|describe|promote|write|say|begin|start|end|carry|state|name|call|label|insert|"
    r"append|"
    r"produce|generate|generating|create|creating|writing|recommend|prefer)"
)
_SUSPICIOUS: tuple[_Sign, ...] = (
    _sign(
        _ANSWER,
        "persona|profile|summar|output|label|answer|response|recommendation|ranking",
        rf"\b(?:must|should|shall|has to|have to|need to|essential|important|please|kindly|"
        rf"required)\b[^.!?]{{0,60}}\b{_DO}s?\b[^.!?]{{0,60}}\b{_MADE}\b"
        rf"|\b{_MADE}\b[^.!?]{{0,30}}\b(?:must|should|shall|has to|have to|needs? to|is to|"
        rf"are to)\b[^.!?]{{0,20}}\b{_DO}s?\b"
        rf"|\b(?:essential|important|required|imperative)\W+(?:that\W+)?(?:the|every|each|all|"
        rf"your)\W+{_MADE}\W+{_DO}s?\b"
        rf"|\b(?:when|while|before|whenever) (?:you )?(?:are )?(?:generat|writ|creat|mak|summari[sz]|"
        rf"produc)\w+\W+(?:\w+\W+){{0,3}}?(?:{_MADE}|reviews?|titles?)\b"
        r"|\bwho(?:ever)? summari[sz]es?\b|\ball (?:personas|profiles|summaries|outputs|answers)\b|\bthe (?:correct|"
        r"right|only|expected) (?:output|answer|label)\b"
        r"[^.!?]{0,40}\b(?:is|:)|\b(?:your|the) next (?:message|output|answer|response)\b|\bin (?:every|all|"
        r"each) (?:outputs?|answers?|responses?|summar\w+)\b",
    ),
    _sign(
        _SET_ASIDE,
        "told|task|above|testing|developer|administrator|admin|override|context|configuration|other review",
        r"\b(?:put|set|leave|lay|throw)\W+(?:\w+\W+){0,2}?aside\b[^.!?]{0,40}\b(?:told|instructed|given)\b|\b(?:new|"
        r"next|real|actual|only) task\b\s*(?:[:=]|is)|"
        r"\byour (?:new |real |actual |only )?task\b|\btask has changed\b|\bmessage from (?:the )?(?:admin\w*|"
        r"developers?|system|platform|owners?|operators?)\b|"
        r"\bI(?:'m| am) (?:the|a|your) (?:developer|administrator|admin|operator|engineer)\b|\bfor testing purposes\b|"
        r"\b(?:text|words?|everything|all|lines?|content)"
        r" above\b[^.!?]{0,30}\b(?:use|write|say|instead)\b|\buse the text above\b|\byour (?:configuration|"
        r"initial context|context window)\b|\binitial context\b|"
        r"\bwhat the other reviewers?\b[^.!?]{0,20}\b(?:wrote|said|say)\b[^.!?]{0,10}\b(?:and|"
        r"but)\b[^.!?]{0,4}\b(?:describe|write|say|mention)\b",
    ),
    _sign(
        _ANSWER,
        "describe|label|pretend|translate|promote|print|output|write |magic word|repeat it|rate ",
        r"^\W*(?:kindly|please|just|now|then|so)?\W*(?:describe|label|translate|promote|print|output) (?:this|it|the|"
        r"all|every|each|your|them|(?-i:[A-Z]))\b"
        r"|^\W*(?:kindly |please )?pretend\W+(?:that\W+)?(?:this|the|it|you)\b|\bpretend (?:that )?(?:the|"
        r"this) review\b|^\W*(?:kindly |please |now )?write (?:a|an|about|that|how|only)\b|"
        r"\bmagic word|\brepeat it in\b|^\W*rate (?:every|all|any|the) (?:other )|\b(?:please )?print (?:your|out|"
        r"the)\b",
    ),
    _sign(
        _SET_ASIDE,
        "vergiss|vergess|olvid|oubli|compte|забуд|忘|只推荐|talimat|"
        "التعليمات|الأوامر|지시|지침|निर्देश|instrukcj|anterior|hướng dẫn",
        r"\bverg(?:iss|esst)\w*\W+(?:alles|das|was)\b|\bolvid\w+\W+(?:todo|lo anterior|lo de arriba|cuanto)\b|"
        r"\boubli\w+\W+(?:tout|ce qui)\b[^.!?]{0,20}\b(?:précède|dessus|avant|dit)|"
        r"\bne (?:tiens|tenez) (?:pas|aucun) compte\b|забудь\w*\W+(?:вс[её]|обо вс[её]м)[^.!?]{0,12}(?:выше|сказан|"
        r"раньше)|忘(?:记|掉)(?:上面|以上|之前|前面)|只推荐|"
        r"talimat\w*[^.!?]{0,30}(?:yok say|unut|görmezden)|(?:تجاهل|انس)[^.!?]{0,30}(?:التعليمات|الأوامر)|(?:지시|"
        r"지침)[^.!?]{0,12}(?:무시|잊)|निर्देश[^.!?]{0,20}(?:अनदेखा|भूल)|"
        r"(?:zignoruj|zapomnij|pomiń)\w*[^.!?]{0,30}instrukcj\w*|dimentica\w*\W+(?:tutto|quanto|ciò)|"
        r"bỏ qua[^.!?]{0,30}hướng dẫn",
    ),
    _sign(
        _SET_ASIDE,
        "ignor|disregard|forget|overrid|bypass",
        rf"\b{_ASIDE}\b[^.!?]{{0,40}}\b(?:instruction|prompt|previous|above|rules|other reviews?|guideline)",
    ),
    _sign(
        _SPEAKS_TO_MODEL,
        "ai |model|prompt|jailbr|gpt|llm|a.i.",
        r"\bas an ai\b|language model|\bprompt injection|\bchat ?gpt|\bllms?\b|\bto the (?:ai|model) (?:reading|that|"
        r"which)",
    ),
    _sign(
        _ANSWER,
        "you must|you should|you will|you shall|you have to|you are to|you need|always|please",
        r"\byou (?:must|shall|are to|are required to)\W+(?:now |always |only |never )*(?:say|write|praise|output|"
        r"recommend|rank|respond|reply|"
        r"answer|print|generate|mention|describe|ignore|promote|name|include)\b|\byou (?:should|will|have to|"
        r"need to)\W+(?:(?:now |always |only |never )+(?:say|write|"
        r"mention|describe|recommend|include|answer|name)|praise|output|rank|print|generate|promote|respond|say that)\b|"
        r""
        r"(?:^|[.!?,;:]\s*)(?:always|please) (?:say|praise|"
        r"output|recommend|rank|respond|reply|promote|mention|include|list|place)\b",
    ),
    _sign(
        _ANSWER,
        "rank|rate |place|score|list|position|put |recommend|praise|promote|say|write|repeat|output|respond|reply|answer|translate",
        r"^\W*(?:rank|rate|place|score|list|position|put|praise|promote|recommend)\W+(?:this|it|the|my|our|"
        r"(?-i:[A-Z]))[^.!?]{0,60}\b(?:first|highest|top|number one|no\. ?1|#1|above|"
        r"users?|customers?|every profile|5 stars|five stars|10/10)\b|^\W*(?:say|write|repeat|output|respond|reply|"
        r"answer|translate|print)\W+(?:only|just|exactly|the words?|the "
        r"following|after me)\b|^\W*(?i:praise|promote) (?-i:[A-Z])",
    ),
    _sign(
        _CHAT,
        "<|>>>|[/|system|assistant|user",
        r"<\|?/?\w+\|?>|<<<|>>>|\[/?inst\]|^\W*(?:system|assistant|user|developer|admin)\s*[:>]",
    ),
    _sign(_CODE, "<|](|] (", r"<\s*/?\s*(?:a|img|video|audio|font|table|div|span)\b[^>]*=|!?\[[^\[\]]{0,200}\]\s?\("),
)  # fmt: skip

# Two words written as one; not McCarthy, DeNiro, D'Addario.
_COINED = r"(?!Mc|Mac[A-Z]|D[ei][A-Z]|L[ea][A-Z]|Van[A-Z]|Fitz|O')(?:[A-Z][a-z]+(?:[A-Z][a-z]+)+)"
_SHOP = (
    r"(?:online )?(?:shop|store|site|website|web ?shop|seller|retailer|dealer|supplier|vendor|outlet|marketplace|"
    r"deals?|"
    r"app|brand|company|provider|service)"
)
_CAPITAL = r"(?:[A-Z][\w'’&-]+(?: [A-Z][\w'’&-]+)?)"
_TWO_IN_ONE = re.compile(r"[a-z][A-Z][a-z]")
# (pieces, pattern), as in the signs above, but capitals count: names of shops and brands are known by theirs.
_ADVERTISING = [
    (
        tuple("code|now|today|here|offer|sponsored|yours|visit |follow |dm |message |contact |%|guarantee|free ".split("|")),
        re.compile(
            r"(?i:\b(?:use|with|enter|apply|mention) (?:the |my |our |promo |discount |coupon |voucher )*code\b|\b(?:promo|"
            r""
            r"discount|coupon|"
            r"voucher) codes?\b|(?:^|[.!?,;:]\s*|\band )(?:buy|order|shop|call|click|subscribe|sign up|register|"
            r"join) (?:now|today|here)\b|"
            r"\blimited[- ]time offer|\bsponsored by\b|\bget yours (?:now|today|at|from|here)\b|\bvisit (?:us|(?:our|"
            r"my) (?:shop|store|site|website|"
            r"page|channel|profile))\b|\bfollow (?:me|us) (?:on|at|for)\b|\b(?:dm|message|contact) (?:me|us) (?:for|to|at|"
            r""
            r"on)\b|"
            r"\b\d{1,2} ?% (?:off|discount)\b|\bfree (?:gift|sample|trial|voucher)s?\b.{0,30}\b(?:at|from|with|when)\b|"
            r""
            r"\bmoney[- ]back guarantee|"
            r"\b(?:find|follow|add|message) (?:me|us)\b[^.!?]{0,30}\b(?:on|at|under|via) (?:insta\w*|facebook|fb|twitter|"
            r"tiktok|telegram|youtube|whatsapp)\b)"
        ),
    ),
    (
        ("buy", "order", "purchase", "got ", "bought"),
        re.compile(
            rf"\b(?:[Gg]ot|[Bb]ought|[Oo]rdered|[Pp]urchased) (?:mine|it|this|them|these|my \w+|our \w+) (?:at|from|on|"
            rf"via) (?:{_COINED}|{_CAPITAL})\b|"
            rf"\b(?:[Bb]uy|BUY|[Oo]rder|[Pp]urchase)\b[^.!?]{{0,50}}\b(?:at|from|on|via|with|AT|FROM) (?:the )?(?:{_COINED}|"
            rf""
            rf"{_CAPITAL})[ ,]{{0,2}}"
            r"(?i:$|[.!]|instead|now|today|for (?:the )?(?:best|less|cheap)|because|and save|the best|where|only)"
        ),
    ),
    (
        tuple("shop|store|site|seller|retailer|dealer|supplier|vendor|outlet|market|deal|app|brand|company|provider|service".split("|")),
        re.compile(
            rf"\b{_CAPITAL},? (?i:(?:is|are|remains|has|the|offers|sells|gives) (?:(?:simply|really|by far|still|always|"
            rf""
            rf"truly|you|just) )*(?:the |my )?"
            rf"(?:best|greatest|finest|only|number one|no\. ?1|#1|leading|cheapest|lowest|most trusted|"
            rf"top) (?:\w+ )?{_SHOP}\b)"
            rf"|\b(?i:best|greatest|favou?rite|cheapest|trusted) (?i:(?:online )?(?:shop|store|seller|web ?site|dealer|"
            rf"retailer)),? (?:is |called |named )?{_CAPITAL}"
            rf"|\b(?i:best|greatest|favou?rite|most trusted|number one|cheapest) (?i:{_SHOP})\b[^.!?]{{0,30}}\b(?i:is|are|:|"
            rf""
            rf"called|named) {_COINED}"
        ),
    ),
    (
        (),
        re.compile(
            rf"\b{_COINED}\b[^.!?]{{0,30}}\b(?i:is|are|has|beats?|sells?|makes?|offers?|delivers?)\b[^.!?]{{0,40}}\b(?i:best|"
            rf""
            rf"greatest|everything|everyone|"
            r"everybody|number one|#1|cheapest|the only|prices?|than (?:any|every|all)|love[sd]?)\b"
            rf"|\b(?i:visit|choose|trust|try|go to|head to|check out|shop at|switch to|thanks to|love|"
            rf"only) {_COINED}\b"
        ),
    ),
]  # fmt: skip
_NAME = re.compile(r"(?<![.!?…:\"“(]\s)(?<!^)(?<!^[\"“(])\b[A-Z\u00c0-\u00de][\w'’-]+|\b[A-Za-z]+[a-z][A-Z]\w*")
_BLOB = re.compile(r"(?<![\w+/=-])(?=[\w+/=-]*[A-Za-z])(?=[\w+/=-]*[\dA-Z])[A-Za-z0-9+/_-]{20,}={0,2}(?![\w+/=])")
_HEXADECIMAL = re.compile(r"(?<!\w)(?:0x)?(?:[0-9a-fA-F]{2}[ :]?){12,}(?!\w)")
# Zero-width characters, soft hyphens and such between two letters of an alphabet that has no use for them there.
_HIDDEN_IN_WORD = re.compile(
    r"[A-Za-zА-яЁё][\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff\u3164\uffa0]+[A-Za-zА-яЁё]"
)
_DIRECTION = re.compile("[\u202a\u202b\u202d\u202e\u2066-\u2069]")
_TAG_CHARACTERS = re.compile("[\U000e0020-\U000e007e]{4,}")
# A review that says the same few words for pages is there to be counted, not read.
_LONG_WORDS = 400
_LEAST_VARIETY = 0.1


def is_hostile(text: str) -> str | None:
    """Why a whole text (review, title, description) must not be used, or None.

    Signs that an honest review does not show, wherever in the text they stand and however they are disguised.
    """
    reason = _hidden(text) or _encoded(text) or _endless(text)
    return reason or next((found for reading in _readings(text) if (found := _first(_HOSTILE, reading))), None)


# A sentence is judged as evidence, as a clause and as a quote.
@lru_cache(maxsize=8192)
def is_suspicious(sentence: str) -> str | None:
    """Why one sentence must not be used, or None: it is hostile, gives orders to whoever reads it, or advertises."""
    if reason := is_hostile(sentence):
        return reason
    for reading in _readings(sentence):
        if reason := _first(_SUSPICIOUS, reading):
            return reason
        if _advertises(reading):
            return "it advertises"
    return None


def foreign_names(text: str, material: str) -> list[str]:
    """Names in `text` that `material`, what it was made from, does not have: a model's invention or somebody's brand.

    Names are words with a capital inside a sentence, or inside the word ("ZephyrMart").
    """
    known = set(re.findall(r"\w+", _plain(material).lower()))
    return [name for name in _NAME.findall(_plain(text)) if not known.issuperset(re.findall(r"\w+", name.lower()))]


def lone_names(texts: Sequence[str], known: str) -> set[str]:
    """Names, lower-cased, that one single text of these has and `known` (title, summary) does not.

    What rules cannot tell, other reviewers can: a sentence with such a name may be an invented brand's, so it should be
    shown only where an item has nothing else to show. Costs honest reviewers the characters that only they mention.
    """
    said = Counter(name for text in texts for name in {name.lower() for name in _NAME.findall(_plain(text))})
    familiar = set(re.findall(r"\w+", _plain(known).lower()))
    return {name for name, count in said.items() if count == 1 and not familiar.issuperset(re.findall(r"\w+", name))}


def _first(signs: tuple[_Sign, ...], text: str) -> str | None:
    lowered = text.lower()
    for reason, pieces, pattern in signs:
        if any(piece in lowered for piece in pieces) and pattern.search(text):
            return reason
    return None


def _advertises(text: str) -> bool:
    lowered = text.lower()
    return any(
        (any(piece in lowered for piece in pieces) if pieces else _TWO_IN_ONE.search(text)) and pattern.search(text)
        for pieces, pattern in _ADVERTISING
    )


def _readings(text: str) -> Iterator[str]:
    """The text as a reader would read it, then with each disguise undone that it wears."""
    plain = _plain(text)
    yield plain
    if not plain.isascii() and _MIXED_WORD.search(plain):
        yield plain.translate(_LOOKALIKES)
    if _LEET_WORD.search(plain):
        yield _LEET_WORD.sub(lambda match: match.group().translate(_DIGITS_FOR_LETTERS), plain)
    if _SPACED_OUT.search(plain):
        yield from _joined(plain)
    if len(_BROKEN.findall(plain)) >= 2:
        yield _BROKEN.sub("", plain)


def _joined(text: str) -> Iterator[str]:
    """Letters set apart put together; where two spaces part words, they still do."""
    yield _SPACED_OUT.sub(lambda match: re.sub(r"(?<=\w)[ .\-_*·](?=\w)", "", match.group()), text)


def _plain(text: str) -> str:
    if text.isascii():
        return html.unescape(text) if "&" in text else text
    kept = "".join(c if c in "\n\t" or not is_invisible(c) else "" for c in text)
    plain = unicodedata.normalize("NFKC", kept).replace("’", "'").replace("‘", "'")
    return html.unescape(plain) if "&" in plain else plain


def _hidden(text: str) -> str | None:
    if _ALL_SPACED_OUT.search(text):
        return "it sets its letters apart"
    if text.isascii():
        return None
    if len(_HIDDEN_IN_WORD.findall(text)) >= 3 or _TAG_CHARACTERS.search(text) or _DIRECTION.search(text):
        return "it hides characters"
    if len(_MIXED_WORD.findall(unicodedata.normalize("NFKC", text))) >= 2:
        return "it mixes letters that look alike"
    return None


def _encoded(text: str) -> str | None:
    for match in _BLOB.finditer(text):
        try:
            padded = match.group().rstrip("=").replace("-", "+").replace("_", "/")
            decoded = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue
        if _is_written(decoded):
            return "it carries encoded text"
    for match in _HEXADECIMAL.finditer(text):
        digits = re.sub(r"[ :]|0x", "", match.group())
        if not digits.isdigit() and _is_written(bytes.fromhex(digits[: len(digits) // 2 * 2])):
            return "it carries encoded text"
    return None


def _is_written(data: bytes) -> bool:
    """Whether bytes are ASCII text: letters and spaces for the most part."""
    return all(32 <= byte < 127 for byte in data) and sum(chr(b).isalpha() or b == 32 for b in data) > 0.8 * len(data)


def _endless(text: str) -> str | None:
    if len(text) < 4 * _LONG_WORDS:
        return None
    found = text.lower().split()
    if len(found) >= _LONG_WORDS and len(set(found)) < _LEAST_VARIETY * len(found):
        return "it says the same over and over"
    return None
