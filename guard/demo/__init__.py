"""``guard demo``: the whole road on scikit-learn's digits.

run     train, export, verify, serve, ask, report
images  digits, letters, photographs and noise to ask about
"""
