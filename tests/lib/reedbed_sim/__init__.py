"""A simulation of a whole cluster in one process on a virtual clock, driven by one seed (docs/durability.md)."""
