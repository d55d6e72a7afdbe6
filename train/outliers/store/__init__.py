"""Outliers on disk: Parquet shards and a card.

store     a folder of them, read as images
fill      filling one, or continuing one that was begun
drawing   drawing from one, or from images of the user's own, in training
card      how it was made; a store that was made otherwise is refused
shards    files that are written whole or not at all
labelled  a store of further in-distribution images
gallery   the page to look at
"""
