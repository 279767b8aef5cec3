"""Interchangeable parts, one family a folder; a part's name is its file."""
