from persona4rec_pipeline.personas.grouping import TrainReview, collect_evidence, group_evidence
from persona4rec_tests.personas.builders import (
    BOOK,
    SETTINGS,
    embed_words,
    gothic_and_comic_reviews,
    review,
    tastes,
)


def groups_of(reviews, most=7):
    evidence = collect_evidence(reviews, BOOK, 4.0, SETTINGS.max_evidence_sentences)
    vectors = embed_words([sentence.text for sentence in evidence])
    return group_evidence(evidence, vectors, tastes(), most, SETTINGS.near_tie)


def test_readers_with_different_reasons_are_in_different_groups():
    kinds = [{review_id[0] for review_id in group.review_ids} for group in groups_of(gothic_and_comic_reviews())]
    assert {"d"} in kinds and {"j"} in kinds and {"s"} in kinds


def test_praise_and_complaint_are_never_grouped_together():
    for group in groups_of(gothic_and_comic_reviews()):
        stances = {sentence.is_for for sentence in group.evidence}
        assert len(stances) == 1
        assert (group.polarity == "critical") == (stances == {False})


def test_one_review_makes_one_group():
    assert len(groups_of([review("r", "The castle is dark. The jokes are silly. The sea is wild.")])) == 1


def test_there_are_never_more_groups_than_allowed_and_a_complaint_keeps_its_place():
    groups = groups_of(gothic_and_comic_reviews(), most=2)
    assert len(groups) == 2
    assert any(group.polarity == "critical" for group in groups)


def test_praise_keeps_its_place_where_there_are_more_complaints_than_room():
    slow = [
        review(f"s{n}{k}", f"{words} number {k}.", rating=1.0)
        for n, words in enumerate(
            [
                "The plot crawls and chapters drag",
                "The dialogue is stilted and wooden",
                "The ending is rushed and abrupt",
            ]
        )
        for k in range(9)
    ]
    fond = [entry for entry in gothic_and_comic_reviews() if entry.review_id[0] == "d"][:2]
    found = groups_of([*slow, *fond], most=2)
    assert sorted(group.polarity for group in found) == ["appreciative", "critical"]


def test_the_order_of_the_reviews_does_not_matter():
    reviews = gothic_and_comic_reviews()
    forwards, backwards = groups_of(reviews), groups_of(list(reversed(reviews)))
    assert [group.evidence for group in forwards] == [group.evidence for group in backwards]


def test_a_low_rating_makes_neutral_words_a_complaint_and_its_praise_is_left_out():
    evidence = collect_evidence(
        [review("r", "The castle has dark corridors. Its brilliant jokes are wonderful.", rating=1.0)], BOOK, 4.0, 10
    )
    assert [(sentence.text, sentence.is_for) for sentence in evidence] == [("The castle has dark corridors.", False)]


def test_an_ironic_complaint_in_praise_is_no_evidence_of_a_taste():
    evidence = collect_evidence(
        [review("r", "The castle is full of dread. Yet another chapter about the neighbours, how thrilling.")],
        BOOK,
        4.0,
        10,
    )
    assert [sentence.text for sentence in evidence] == ["The castle is full of dread."]


def test_what_a_neutral_review_says_speaks_for_or_against_by_its_words():
    evidence = collect_evidence(
        [review("r", "The castle is wonderful and full of charm. The long corridors bored me terribly.", rating=3.0)],
        BOOK,
        4.0,
        10,
    )
    assert [sentence.is_for for sentence in evidence] == [True, False]


def test_every_sentence_has_the_place_where_it_stands_in_the_review():
    text = "  The castle is full of dread.  I shivered at every creak of the old stairs! "
    for sentence in collect_evidence([review("r", text)], BOOK, 4.0, 10):
        assert text[sentence.start : sentence.end] == sentence.text


def test_the_title_of_a_review_helps_to_recognise_and_is_no_evidence_itself():
    titled = TrainReview("r", "The corridors of the castle are dark.", True, 5.0, title="Creeping fear and dread")
    evidence = collect_evidence([titled], BOOK, 4.0, 10)
    assert [sentence.is_title for sentence in evidence] == [True, False]
    groups = group_evidence(
        evidence, embed_words([sentence.text for sentence in evidence]), tastes(), 7, SETTINGS.near_tie
    )
    assert all(not sentence.is_title for group in groups for sentence in group.evidence)


def crowd(count, start=0):
    """So many reviews, one in twenty of them bad."""
    return [
        review(f"r{n}", f"The castle number {n} is full of dread and fear.", rating=1.0 if n % 20 == 0 else 5.0)
        for n in range(start, start + count)
    ]


def test_of_a_large_item_a_minority_keeps_a_place():
    sample = collect_evidence(crowd(2000), BOOK, 4.0, 100)
    assert len(sample) == 100
    assert sum(not sentence.is_for for sentence in sample) == 30


def test_a_few_new_reviews_change_little_of_the_sample_of_a_large_item():
    before = {sentence.text for sentence in collect_evidence(crowd(1000), BOOK, 4.0, 100)}
    after = {sentence.text for sentence in collect_evidence([*crowd(1000), *crowd(50, start=1000)], BOOK, 4.0, 100)}
    assert len(before & after) >= 90


def test_reviews_in_a_language_that_the_encoder_does_not_read_are_evidence_without_a_topic():
    spanish = [
        TrainReview(f"e{n}", f"El castillo número {n} está lleno de miedo y de sombras.", True, 5.0, language="es")
        for n in range(3)
    ]
    evidence = collect_evidence(spanish, BOOK, 4.0, 10, ["en"])
    assert evidence and all(sentence.is_foreign for sentence in evidence)
    (group,) = group_evidence(
        evidence, embed_words([sentence.text for sentence in evidence]), tastes(), 7, SETTINGS.near_tie
    )
    assert group.taste is None and group.polarity == "appreciative"
