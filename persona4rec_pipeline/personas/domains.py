"""The words of a domain: what an item is called, who takes to it, and the kinds of taste that people have in it.

One setting (`personas.domain`, or `--domain` per catalogue) fits prompts and names to books, films or restaurants, so
that a diner is never asked about chapters. Bundled sets lie in `domain_words/`; a path to a TOML file of the same form
is a set of one's own.

Belongs here: reading and checking such a set. Does not belong here: matching a group of sentences with a taste.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

_WORDS = "persona4rec_pipeline.personas.domain_words"


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
    # Kinds of taste and of complaint: name -> what such people look for, or object to.
    tastes: Mapping[str, str] = field(hash=False)
    complaints: Mapping[str, str] = field(hash=False)


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
        tastes=dict(words["tastes"]),
        complaints=dict(words["complaints"]),
    )


def domain_fingerprint(name: str) -> str:
    """A short hash of a domain's words; when they change, personas are out of date."""
    domain = get_domain(name)
    words = [
        (domain.item, domain.person, domain.act),
        sorted(domain.generic_words | domain.off_topic_words),
        sorted(domain.tastes.items()),
        sorted(domain.complaints.items()),
    ]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:12]


def _problem(words: dict[str, Any]) -> str | None:
    for key in ("item", "person", "act", "generic", "off_topic"):
        if not isinstance(words.get(key), str):
            return f"{key} must be a text"
    for key in ("tastes", "complaints"):
        table = words.get(key)
        if not isinstance(table, dict) or not table or not all(isinstance(value, str) for value in table.values()):
            return f"{key} must be a table of names and what such people look for or object to"
    unknown = set(words) - {"item", "person", "act", "generic", "off_topic", "tastes", "complaints"}
    return f"unknown key {min(unknown)}" if unknown else None
