"""What takes long is kept, under a name for everything that decides it.

keyed            names with a digest of what determines the content
trained_network  a network that is trained before a stage, and resumed after a kill
pieces           tensors made piece by piece: a killed run resumes at the first missing piece
shared_model     a finished model that one process trains while others wait
held             what a synthesiser works with and checkpoints need not hold
"""
