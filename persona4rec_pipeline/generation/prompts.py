"""Prompt templates, and the cleaning that lets a stranger's text stand in one.

Belongs here: loading and rendering of `*.jinja` templates, `delimit`, and the cutting of texts at sentence ends. Does
not belong here: what the cleaning consists of (`cleaning`, `scrub`), the templates themselves (each stage keeps its own
beside its code) and the choice between a compact and a full one (`LanguageModel.prompt_profile`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import get_args

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from persona4rec_pipeline.generation.cleaning import harmless_line
from persona4rec_pipeline.generation.records import Message, Role
from persona4rec_pipeline.generation.scrub import scrub

_COMMENT = re.compile(r"\A\s*\{#.*?#\}", re.DOTALL)
_SECTION = re.compile(r"^===[ \t]*(\S*)[ \t]*$", re.MULTILINE)

_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*(?=\s|$)|[。！？]")


class TemplateError(ValueError):
    """A template file is missing or is not made of role sections."""


@dataclass(frozen=True)
class PromptTemplate:
    """A chat prompt with variables, in a file of sections opened by lines `=== system`, `=== user`, `=== assistant`.

    The file is split before it is rendered, so the value of a variable can never open a section. Before the first
    section only a `{# comment #}` may stand. Sections are jinja2 (sandboxed, undefined variables raise, no
    autoescaping), one after the other: a loop cannot span two of them. `delimit` is there as a filter.
    """

    name: str
    text: str

    @classmethod
    def load(cls, package: str, name: str) -> PromptTemplate:
        """The resource `name` of `package` (`"persona4rec_pipeline.personas.prompts"`, `"review_aspects.full.jinja"`).

        Raises TemplateError when there is none or it is malformed, now rather than at the first prompt.
        """
        try:
            text = files(package).joinpath(name).read_text(encoding="utf-8")
        except (FileNotFoundError, ModuleNotFoundError) as error:
            raise TemplateError(f"There is no prompt template {name} in {package}.") from error
        template = cls(name=name, text=text)
        _ = template._sections
        return template

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any character of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def render(self, **variables: object) -> tuple[Message, ...]:
        """The messages, in the order of the file. Raises jinja2.UndefinedError for a variable that is not given."""
        return tuple(Message(role, section.render(**variables).strip()) for role, section in self._sections)

    @cached_property
    def _sections(self) -> tuple[tuple[Role, Template], ...]:
        body = _COMMENT.sub("", self.text, count=1)
        before, *rest = _SECTION.split(body)
        if before.strip() or not rest:
            raise TemplateError(f"{self.name} must begin with a section line such as `=== user` (after a comment).")
        environment = SandboxedEnvironment(
            undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["delimit"] = delimit
        sections: list[tuple[Role, Template]] = []
        for found, source in zip(rest[::2], rest[1::2], strict=True):
            role: Role | None = next((role for role in get_args(Role) if role == found), None)
            if role is None:
                raise TemplateError(f"{self.name} has a section {found!r}; known: {', '.join(get_args(Role))}.")
            sections.append((role, environment.from_string(source)))
        return tuple(sections)


def delimit(text: str, max_characters: int) -> str:
    """A stranger's text (review, title) as harmless data: one line, no markup, at most `max_characters` characters.

    What it does, in order: drops control, zero-width, bidirectional and other invisible characters; composes (NFC);
    turns every run of white space into one space, so no line of its own can be opened; drops plain HTML formatting
    tags; replaces `< > [ ] { }` and backticks by harmless lookalikes, which takes the force from tags, from chat tokens
    (`<|im_start|>`, `[INST]`, `<s>`), from code fences and from our own `<<<` and `>>>`; removes heading marks (`###`)
    and shortens rules and triple quotes; replaces personal data by placeholders (`scrub`); cuts at the end of a sentence
    where one ends in the second half, otherwise at a word. Applying it twice changes nothing. It cannot stop a text from
    asking for things in plain words; prompts must say that what stands between the delimiters is data.

    Raises ValueError when `max_characters` is below 1.
    """
    if max_characters < 1:
        raise ValueError(f"max_characters must be at least 1, not {max_characters}.")
    # Removing one thing can bring together another (two halves of a rule, a letter and its accent), so: to the end.
    while (cleaned := cut_at_sentence(scrub(harmless_line(text)), max_characters)) != text:
        text = cleaned
    return text


def cut_at_sentence(text: str, max_characters: int) -> str:
    """A beginning of `text` of at most `max_characters`, ending with a sentence if one ends in the second half of that,
    otherwise with a word if one does, otherwise anywhere. A text that fits is returned unchanged."""
    if len(text) <= max_characters:
        return text
    # One character more, so that a sentence or word that ends exactly at the limit is seen to end there.
    window = text[: max_characters + 1]
    ends = [match.end() for match in _SENTENCE_END.finditer(window) if match.end() <= max_characters]
    # `$` matches at the end of the window, where the text goes on: that is no sentence end.
    if ends and ends[-1] >= max_characters / 2:
        return window[: ends[-1]].rstrip()
    space = max(window.rfind(" "), window.rfind("\n"))
    return window[: space if space >= max_characters / 2 else max_characters].rstrip()
