"""What `guard.fit` asks of a classifier on the user's own images, before it makes a guard of it.

logits    its numbers are logits
steady    an image is judged alike whatever its batch, its neighbours and chance
order     the classes' names stand at the logits that answer so
geometry  the input is made as the classifier's own was
"""
