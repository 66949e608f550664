"""How calls come in: one port, an adapter for each library that speaks gRPC, and the choice between them."""

from prinz_enricher.service.front.choice import open_front
from prinz_enricher.service.front.grpcio_front import SERVICE, GrpcioFront
from prinz_enricher.service.front.port import Call, CallHandler, Front, FrontError, Source, SourceOpener

__all__ = [
    "SERVICE",
    "Call",
    "CallHandler",
    "Front",
    "FrontError",
    "GrpcioFront",
    "Source",
    "SourceOpener",
    "open_front",
]
