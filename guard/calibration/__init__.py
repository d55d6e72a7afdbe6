"""From held-out scores to decisions, and how to do it again without retraining.

conformal      thresholds and p-values with a finite-sample guarantee
by_class       one threshold for each predicted class
temperature    probabilities that mean what they say
decision_rule  the thresholds, as the graph and the host apply them
recalibrate    all of it again, for new images, on any artefact
"""
