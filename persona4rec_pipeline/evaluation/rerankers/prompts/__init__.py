"""Prompt templates of this step, one file per task and prompt profile."""
