"""Model descriptions: each architecture is recorded once as the operations of a native Program."""

from .network import DrafterNetwork, Network
from .registry import build_drafter, build_network, has_own_drafter, taps

__all__ = ["DrafterNetwork", "Network", "build_drafter", "build_network", "has_own_drafter", "taps"]
