"""Lanes: multiplexed calls between a client and a daemon."""
