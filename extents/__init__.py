"""Write, read and later re-place and rebuild one extent over lanes, given a cluster map."""
