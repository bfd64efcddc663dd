"""The remote swap tier: a pure core (`tier`) and the gRPC server around it."""
