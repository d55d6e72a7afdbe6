"""What `guard.fit` asks of a classifier on the user's own images, before it makes a guard of it.

geometry  the input is made as the classifier's own was
order     the classes' names stand at the logits that answer so
"""
