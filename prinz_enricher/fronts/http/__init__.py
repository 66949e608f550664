"""The HTTP API: models, scores, and documents for those who speak neither gRPC nor protobuf."""
