"""Counting and cutting in a model's tokens, without its engine.

Belongs here: the tokenizer of a model folder or hub id, and the estimate for endpoints whose tokenizer is unknown. Does
not belong here: where the model comes from (`packaged_models.py`).
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from persona4rec_pipeline.generation.records import GenerationError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# English runs at about 4 characters a token in current vocabularies; other scripts at fewer.
CHARACTERS_PER_TOKEN = 4
# What a chat template adds per message: role and separators.
TEMPLATE_TOKENS_PER_MESSAGE = 5
# Prompts kept between counting and generating, so that none is tokenised twice.
REMEMBERED_PROMPTS = 1024


class ModelTokenizer:
    """The tokenizer of a Hugging Face model, loaded when first used.

    model: path or hub id. Raises GenerationError from any method if it cannot be loaded or has no chat template.
    """

    def __init__(self, model: str):
        self._model = model
        self.prompt_ids = lru_cache(maxsize=REMEMBERED_PROMPTS)(self._prompt_ids)

    def count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def count_prompt(self, messages: tuple[Message, ...]) -> int:
        return len(self.prompt_ids(messages))

    def head(self, text: str, max_tokens: int) -> str:
        # Twice the usual length of that many tokens, so that the whole of a long text is rarely read.
        window = text[: max_tokens * CHARACTERS_PER_TOKEN * 2]
        while True:
            ids = self._tokenizer(window, add_special_tokens=False, return_offsets_mapping=True)
            offsets = ids["offset_mapping"]
            if len(offsets) > max_tokens:
                return self._shrunk(text[: offsets[max_tokens - 1][1]], max_tokens)
            if len(window) == len(text):
                return text
            window = text[: len(window) * 2]

    def _shrunk(self, head: str, max_tokens: int) -> str:
        """A beginning can take more tokens on its own than it took as part of a longer text, by one or two."""
        while head and self.count(head) > max_tokens:
            head = head[:-1]
        return head

    def _prompt_ids(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        # Models that can think aloud before they answer must not: the grammar starts at the first token.
        ids = self._tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
        return tuple(ids)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self._model)
        except (OSError, ValueError) as error:
            raise GenerationError(f"The tokenizer of the model {self._model} cannot be loaded: {error}") from error
        if not tokenizer.chat_template:
            raise GenerationError(f"The model {self._model} has no chat template; take an instruct model.")
        return tokenizer


class EstimatedTokenizer:
    """An estimate, 4 characters per token, for endpoints that do not give away their tokenizer."""

    def count(self, text: str) -> int:
        return -(-len(text) // CHARACTERS_PER_TOKEN)

    def count_prompt(self, messages: tuple[Message, ...]) -> int:
        return sum(self.count(message.content) + TEMPLATE_TOKENS_PER_MESSAGE for message in messages)

    def head(self, text: str, max_tokens: int) -> str:
        return text[: max_tokens * CHARACTERS_PER_TOKEN]
