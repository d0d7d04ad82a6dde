"""Hostile reviews and metadata through the real pipeline, and the exports that leave it."""
