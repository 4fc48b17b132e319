"""The protobuf schema, the module generated from it, and the generator."""
