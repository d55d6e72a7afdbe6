"""Features of any torch model.

extract        find the penultimate features, stream them, fit a score on them
cross_fitting  what the other folds of a data set say of each of its images
choose_layers  which intermediate layers a score reads where the user names none
"""
