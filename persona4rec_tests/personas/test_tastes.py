"""The recogniser of tastes, with an encoder of words."""

import numpy as np
import pytest

from persona4rec_pipeline.personas.tastes import Passages, Recogniser
from persona4rec_tests.personas.builders import BOOK, embed_words

NAMES = list(BOOK.tastes)
DREAD = NAMES.index("Gothic dread")


def passage(*texts: str) -> Passages:
    return Passages(texts, embed_words(texts), [range(len(texts))])


@pytest.fixture(scope="module")
def of_gothic_shop() -> Recogniser:
    """Adapted to a catalogue of which every item is praised for its dread."""
    recogniser = Recogniser(BOOK.tastes, embed_words)
    recogniser.adapt([passage(*BOOK.tastes["Gothic dread"].says[:4]) for _ in range(40)])
    return recogniser


def test_what_the_domain_file_says_of_a_taste_is_recognised():
    recogniser = Recogniser(BOOK.tastes, embed_words)
    found = [recogniser.recognise(passage(*BOOK.tastes[name].says[:3])).probabilities[0].argmax() for name in NAMES]
    assert found == list(range(len(NAMES)))


def test_what_is_common_in_a_catalogue_has_to_be_stated(of_gothic_shop):
    assert not of_gothic_shop.is_sure(DREAD, np.array([0.1, 0.5]))
    assert of_gothic_shop.is_sure(DREAD, np.array([0.1, 0.95]))
    assert of_gothic_shop.is_sure(NAMES.index("Sea story"), np.array([0.01]))


def test_a_catalogue_makes_its_own_topics_likelier_where_a_passage_leaves_it_open(of_gothic_shop):
    open_ = passage("The house was good.")
    before = Recogniser(BOOK.tastes, embed_words).recognise(open_).probabilities[0, DREAD]
    assert of_gothic_shop.recognise(open_).probabilities[0, DREAD] > before


def test_of_a_few_items_nothing_is_called_common():
    recogniser = Recogniser(BOOK.tastes, embed_words)
    recogniser.adapt([passage(*BOOK.tastes["Gothic dread"].says[:4])])
    assert recogniser.is_sure(DREAD, np.array([0.1]))
