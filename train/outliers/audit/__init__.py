"""Does a low-level statistic give the outliers away?

audit       the comparison with in-distribution images
record      its result, in the store's card
low_level   sharpness, contrast and the like
duplicates  images that are there twice
"""
