"""Gateway side: receiver, control server, configuration."""

from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.embedded import Gateway, OrderHandler, PythonHandler

__all__ = ["Gateway", "GatewayConfig", "OrderHandler", "PythonHandler"]
