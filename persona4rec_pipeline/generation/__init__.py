"""Ground floor: the language model. Prompts in, validated records out, each paid for once.

Belongs here: requests and results, prompt templates and the cleaning of what goes into them, the ledger, the engines
(vLLM in-process, any OpenAI-compatible endpoint) and the models that come as packages. Does not belong here: any prompt
or check of a stage, and Dagster. Importing this package imports neither torch nor vLLM nor transformers.
"""

from persona4rec_pipeline.generation.language_model import LanguageModel
from persona4rec_pipeline.generation.ledger import Ledger
from persona4rec_pipeline.generation.packaged_models import resolve_embedding_model, resolve_language_model
from persona4rec_pipeline.generation.prompts import PromptTemplate, delimit
from persona4rec_pipeline.generation.records import (
    BudgetReached,
    GenerationError,
    InvalidAnswer,
    Message,
    Request,
    Result,
)

__all__ = [
    "BudgetReached",
    "GenerationError",
    "InvalidAnswer",
    "LanguageModel",
    "Ledger",
    "Message",
    "PromptTemplate",
    "Request",
    "Result",
    "delimit",
    "resolve_embedding_model",
    "resolve_language_model",
]
