"""The fronts: how calls come in and leave, gRPC for callers and HTTP for operators."""
