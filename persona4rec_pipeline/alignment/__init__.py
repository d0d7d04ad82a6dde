"""Step 3: histories and personas become alignment pairs: which persona of an item explains a past choice.

Belongs here: who is asked about, what the judge reads, and its answer with the probability of every option. Does not
belong here: what is learnt from the pairs (`encoder/`).
"""
