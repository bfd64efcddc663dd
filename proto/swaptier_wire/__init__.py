"""The words both sides of the wire share: domain types, errors, and their translation to protobuf and gRPC."""
