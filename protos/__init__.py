"""The wire: .proto files, the code generated from them, and the module that turns messages into our types."""
