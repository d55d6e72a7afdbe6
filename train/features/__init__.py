"""Features of any torch model.

extract        find the penultimate features, stream them, fit a score on them
choose_layers  which intermediate layers a score reads where the user names none
"""
