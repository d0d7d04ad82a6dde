"""A test double of the engine protocol, and builders that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from persona4rec_pipeline.generation import Ledger, Message, Request
from persona4rec_pipeline.generation.engine import Answer, Prompt
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_ledger_database

Script = Callable[[Prompt], Answer | str]


class WordTokenizer:
    """One token per word."""

    def count(self, text: str) -> int:
        return len(text.split())

    def count_prompt(self, messages: tuple[Message, ...]) -> int:
        return sum(self.count(message.content) for message in messages)

    def head(self, text: str, max_tokens: int) -> str:
        words = text.split(" ")
        return text if len(words) <= max_tokens else " ".join(words[:max_tokens])


class ScriptedEngine:
    """Answers by a function of the prompt instead of a model; keeps every batch that it was asked."""

    def __init__(self, script: Script):
        self.script = script
        self.batches: list[list[Prompt]] = []
        self.starts = 0
        self.closes = 0
        self.tokenizer = WordTokenizer()

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for batch in self.batches for prompt in batch]

    def start(self) -> None:
        self.starts += 1

    def answer(self, prompts: Sequence[Prompt], on_answer: Callable[[int], None]) -> list[Answer]:
        self.batches.append(list(prompts))
        answers = []
        for prompt in prompts:
            said = self.script(prompt)
            answers.append(
                said if isinstance(said, Answer) else Answer(said, True, prompt_tokens=10, completion_tokens=5)
            )
            on_answer(1)
        return answers

    def close(self) -> None:
        self.closes += 1


def echo(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def cut_off(text: str = "half an ans") -> Answer:
    return Answer(text, finished=False, prompt_tokens=10, completion_tokens=5)


def ask(text: str, **changes: Any) -> Request:
    return Request(
        **{
            "task": "test",
            "subject": f"books/review/{text}",
            "messages": (Message("user", text),),
            "template": "t1",
            **changes,
        }
    )


def settings_in(home: Path, **generation: Any) -> Settings:
    return load_settings({}, home=home, generation=generation)


def ledger_in(home: Path) -> Ledger:
    return Ledger(open_ledger_database(settings_in(home)))
