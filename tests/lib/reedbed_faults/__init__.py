"""Faults for tests: what can happen between two processes."""
