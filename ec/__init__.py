"""Erasure coding: profiles, codes, cutting and read plans. Pure: no I/O and no clock."""
