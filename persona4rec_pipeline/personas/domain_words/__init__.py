"""Bundled domain words, one TOML file per domain; see `personas/domains.py`."""
