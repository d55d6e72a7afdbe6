"""What `guard.fit` asks of a classifier on the user's own images, before it makes a guard of it.

order  the classes' names stand at the logits that answer so
"""
