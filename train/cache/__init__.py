"""What takes long is kept, under a name for everything that decides it.

keyed         a folder or file named after the digest of what decides its content
pieces        tensors made piece by piece: a killed run resumes at the first missing piece
shared_model  a finished model that one process trains while others wait
"""
