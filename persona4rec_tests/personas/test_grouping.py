from persona4rec_pipeline.personas.grouping import collect_evidence, group_evidence
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
    return group_evidence(evidence, vectors, tastes(), most, SETTINGS.merge_similarity)


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


def test_the_order_of_the_reviews_does_not_matter():
    reviews = gothic_and_comic_reviews()
    forwards, backwards = groups_of(reviews), groups_of(list(reversed(reviews)))
    assert [group.evidence for group in forwards] == [group.evidence for group in backwards]


def test_sentences_about_the_occasion_give_way_to_sentences_about_taste():
    reviews = [review(f"r{n}", f"Read it on the train. The castle number {n} is full of dread.") for n in range(4)]
    evidence = collect_evidence(reviews, BOOK, 4.0, 50)
    assert all("castle" in sentence.text for sentence in evidence)


def test_a_low_rating_makes_neutral_words_a_complaint_and_praise_in_it_neutral():
    evidence = collect_evidence(
        [review("r", "The castle has dark corridors. Its brilliant jokes are wonderful.", rating=1.0)], BOOK, 4.0, 10
    )
    assert [sentence.stance for sentence in evidence] == [-1, 0]
