"""Choices to explain, for the tests of this room."""

from persona4rec_pipeline.alignment.judge import Choice, Option, PastInteraction

DREAD = Option("dread", "Gothic dread reader", "This reader looks for castles and creeping fear.", "For the fear.")
JOKES = Option("jokes", "Comedy reader", "This reader looks for silly jokes.", "For the jokes.")
SEA = Option("sea", "Sea story reader", "This reader looks for ships and storms.", "For the storms.")


def past(review_id: str, said: str, summary: str = "A book.") -> PastInteraction:
    return PastInteraction(review_id, f"Book {review_id}", summary, {"quality_criteria": said})


def choice(review_id="r9", options=(DREAD, JOKES, SEA), said="creeping fear in a castle") -> Choice:
    return Choice("books", review_id, "u1", "ITEM-77", "Dracula", "A count.", (past("r1", said),), tuple(options))
