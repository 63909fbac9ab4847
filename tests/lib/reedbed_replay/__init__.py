"""Power cuts, replayed: what a folder went through is recorded, and all that a cut could leave of it is made."""
