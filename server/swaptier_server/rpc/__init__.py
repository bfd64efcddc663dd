"""The gRPC service: calls, streams, their guard and their metrics."""
