"""The door: calls come in over gRPC and leave by the same door."""

from prinz_enricher.service.application import Application
from prinz_enricher.service.front import Call, Front, FrontError
from prinz_enricher.service.http_door import DoorError

__all__ = ["Application", "Call", "DoorError", "Front", "FrontError"]
