"""Outliers on disk: Parquet shards and a card.

store    filling one, drawing from one
card     how it was made; a store that was made otherwise is refused
shards   files that are written whole or not at all
labelled a store of further in-distribution images
gallery  the page to look at
"""
