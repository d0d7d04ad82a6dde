"""Reads the sentence banks in ``content/`` into records. Only parsing belongs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .model import Book, Motive, OneOff, Passage

CONTENT_FOLDER = Path(__file__).parent / "content"

Section = tuple[list[str], list[str]]


def read_sections(file_name: str) -> Iterator[Section]:
    """Yield each "==" section of a bank as its header fields and its lines, without comments and blank lines."""
    header: list[str] | None = None
    lines: list[str] = []
    for line in (CONTENT_FOLDER / file_name).read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("# "):
            continue
        if line.startswith("== "):
            if header is not None:
                yield header, lines
            header, lines = [part.strip() for part in line[3:].split(" | ")], []
        else:
            lines.append(line)
    if header is not None:
        yield header, lines


def sentences_by_label(lines: list[str]) -> dict[str, list[str]]:
    """Group lines under the "@label" line that they follow."""
    grouped: dict[str, list[str]] = {}
    label = "sentences"
    for line in lines:
        if line.startswith("@"):
            label = line[1:]
        else:
            grouped.setdefault(label, []).append(line)
    return grouped


def load_motives() -> dict[str, Motive]:
    """Return every motive by its id, the appreciative ones first."""
    motives = {}
    for file_name in ("motives_appreciative.txt", "motives_critical.txt"):
        for (motive_id, polarity, name, description), lines in read_sections(file_name):
            motives[motive_id] = Motive(motive_id, polarity, name, description, sentences_by_label(lines))
    return motives


def load_books(*file_names: str) -> list[Book]:
    """Return the books of the named files in their order."""
    return [_read_book(header, lines) for file_name in file_names for header, lines in read_sections(file_name)]


def _read_book(header: list[str], lines: list[str]) -> Book:
    asin, title, author, first_published, popularity, spoken_name = header
    facts: dict[str, str] = {}
    planted: dict[str, dict[str, Passage]] = {"+": {}, "-": {}}
    passage = Passage([], [])
    for line in lines:
        mark, _, rest = line.partition(" ")
        if mark in planted:
            passage = Passage([], [])
            planted[mark][rest] = passage
        elif mark == "*":
            passage.moments.append(rest)
        elif mark == "!":
            passage.remarks.append(rest)
        else:
            facts[mark.rstrip(":")] = rest
    return Book(
        asin=asin,
        title=title,
        author=author,
        first_published=first_published,
        popularity=float(popularity),
        spoken_name=spoken_name,
        categories=facts["categories"].split("; "),
        features=facts["features"].split("; "),
        description=facts["description"],
        appreciative=planted["+"],
        critical=planted["-"],
    )


def load_one_offs() -> list[OneOff]:
    """Return the reviews that were written whole."""
    return [
        OneOff(kind, asin, None if motive_id == "-" else motive_id, float(rating), title, " ".join(lines))
        for (kind, asin, motive_id, rating, title), lines in read_sections("one_offs.txt")
    ]


def load_labelled(file_name: str) -> dict[str, dict[str, list[str]]]:
    """Return a bank whose sections each hold labelled sentences: section name, then label, then sentences."""
    return {header[0]: sentences_by_label(lines) for header, lines in read_sections(file_name)}
