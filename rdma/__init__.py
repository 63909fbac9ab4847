"""The lane contract over verbs (pyverbs). Not built yet: lanes run over gRPC everywhere (see docs/architecture.md)."""
