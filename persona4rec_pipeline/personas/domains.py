"""The words of a domain: what an item is called, who takes to it, and the kinds of taste that people have in it.

One setting (`personas.domain`, or `--domain` per catalogue) fits prompts and names to books, films or restaurants, so
that a diner is never asked about chapters. Bundled sets lie in `domain_words/`; a path to a TOML file of the same form
is a set of one's own.

Belongs here: reading and checking such a set. Does not belong here: finding the taste that a sentence is about
(`tastes.py`).
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

_WORDS = "persona4rec_pipeline.personas.domain_words"
# Of a taste and of a complaint: the key that holds its meaning.
_MEANING = {"tastes": "looks_for", "complaints": "objects_to"}


@dataclass(frozen=True)
class Topic:
    """A kind of taste or of complaint.

    who: a name for such a person ("Slow-burn romance lover"). meaning: what they look for or object to, as the end of a
    sentence. says: how reviewers put it, the examples by which sentences are recognised; may be empty.
    """

    name: str
    who: str
    meaning: str
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """Words used in prompts, persona names and descriptions."""

    name: str
    item: str  # "book"
    person: str  # "reader"
    act: str  # "reads": what the person does with the item
    # Words that say nothing about taste in this domain, so that no persona is named after them.
    generic_words: frozenset[str]
    # A sentence about these is off-topic (the shop, the parcel).
    off_topic_words: frozenset[str]
    tastes: Mapping[str, Topic] = field(hash=False)
    complaints: Mapping[str, Topic] = field(hash=False)


def bundled_domains() -> list[str]:
    """Names of the bundled sets."""
    return sorted(Path(entry.name).stem for entry in files(_WORDS).iterdir() if entry.name.endswith(".toml"))


@cache
def get_domain(name: str) -> Domain:
    """The words of a bundled domain, or of a TOML file given by path.

    Raises ValueError naming the bundled domains for an unknown name, and the key for a file that lacks one.
    """
    if name in bundled_domains():
        text = files(_WORDS).joinpath(f"{name}.toml").read_text()
    elif name.endswith(".toml") and Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise ValueError(
            f"Unknown domain {name!r}; bundled are: {', '.join(bundled_domains())}. A path to a .toml file works as well."
        )
    try:
        words: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"The domain words of {name} are not valid TOML: {error}") from error
    problem = _problem(words)
    if problem:
        raise ValueError(f"The domain words of {name}: {problem}.")
    return Domain(
        name=name,
        item=words["item"],
        person=words["person"],
        act=words["act"],
        generic_words=frozenset(words["generic"].split()),
        off_topic_words=frozenset(words["off_topic"].split()),
        tastes=_topics(words, "tastes", words["person"]),
        complaints=_topics(words, "complaints", "critic"),
    )


def domain_fingerprint(name: str) -> str:
    """A short hash of a domain's words; when they change, personas are out of date."""
    domain = get_domain(name)
    words = [
        (domain.item, domain.person, domain.act),
        sorted(domain.generic_words | domain.off_topic_words),
        sorted(astuple(topic) for topic in domain.tastes.values()),
        sorted(astuple(topic) for topic in domain.complaints.values()),
    ]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:12]


def _topics(words: dict[str, Any], table: str, person: str) -> dict[str, Topic]:
    topics = {}
    for name, entry in words[table].items():
        if isinstance(entry, str):
            entry = {_MEANING[table]: entry}
        who = entry.get("who", f"{name} {person}")
        topics[name] = Topic(name, who, entry[_MEANING[table]], tuple(entry.get("says", ())))
    return topics


def _problem(words: dict[str, Any]) -> str | None:
    for key in ("item", "person", "act", "generic", "off_topic"):
        if not isinstance(words.get(key), str):
            return f"{key} must be a text"
    for table, meaning in _MEANING.items():
        entries = words.get(table)
        if not isinstance(entries, dict) or not entries:
            return f"{table} must be a table of names and what such people look for or object to"
        for name, entry in entries.items():
            entry = {meaning: entry} if isinstance(entry, str) else entry
            problem = _topic_problem(entry, meaning)
            if problem:
                return f"{table}.{name}: {problem}"
    unknown = set(words) - {"item", "person", "act", "generic", "off_topic", *_MEANING}
    return f"unknown key {min(unknown)}" if unknown else None


def _topic_problem(entry: Any, meaning: str) -> str | None:
    if not isinstance(entry, dict) or not isinstance(entry.get(meaning), str):
        return f"{meaning} must be a text"
    if not isinstance(entry.get("who", ""), str):
        return "who must be a text"
    says = entry.get("says", [])
    if not isinstance(says, list) or not all(isinstance(sentence, str) for sentence in says):
        return "says must be a list of sentences"
    unknown = set(entry) - {"who", meaning, "says"}
    return f"unknown key {min(unknown)}" if unknown else None
