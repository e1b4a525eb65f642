"""The semantic head and the meta-architecture, registered in Detectron2's registries."""

from .meta_arch import PanopticLovaszFPN
from .semantic_head import LovaszSemSegFPNHead

__all__ = ["LovaszSemSegFPNHead", "PanopticLovaszFPN"]
