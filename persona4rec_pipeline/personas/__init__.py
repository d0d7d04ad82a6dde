"""Step 2: train reviews and items become aspects and summaries, and these become personas.

Belongs here: what is read out of one review, what is said of one item, and the kinds of people who take to it. Does not
belong here: what the encoder reads (`encoder/texts.py`) and anything about one user.
"""
