"""Beside the steps: the index in the shapes that other recommender libraries ask for.

Belongs here: one module per library, which translates and does nothing else, and which does not import that library. Does not
belong here: any ranking (`index/`), HTTP shapes of other services (`serving/`).
"""
