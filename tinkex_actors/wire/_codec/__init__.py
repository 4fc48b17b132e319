"""The two encodings of messages: JSON, and protobuf with its arrays."""
