"""The SDK: asynchronous core, synchronous face."""
