"""The gRPC fronts: one port, an adapter for each library that speaks gRPC, and the choice between them."""

from prinz_enricher.fronts.grpc.choice import open_front
from prinz_enricher.fronts.grpc.grpcio_front import SERVICE, GrpcioFront

__all__ = ["SERVICE", "GrpcioFront", "open_front"]
