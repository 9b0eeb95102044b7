"""Weights of other libraries under our names, and ours under theirs."""

from mobilevit.checkpoints.adapters import cvnets, ssdlite, timm, transformers
from mobilevit.checkpoints.adapters.adapter import Adapter

__all__ = ["ADAPTERS", "HEAD_ADAPTERS", "Adapter"]

ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("timm", "mobilevit"): timm.MOBILEVIT,
    ("timm", "mobilevitv2"): timm.MOBILEVITV2,
    ("transformers", "mobilevit"): transformers.MOBILEVIT,
    ("transformers", "mobilevitv2"): transformers.MOBILEVITV2,
    ("cvnets", "mobilevit"): cvnets.MOBILEVIT,
    ("cvnets", "mobilevitv2"): cvnets.MOBILEVITV2,
}
"""The tables by library and family of networks."""

HEAD_ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("transformers", "deeplabv3"): transformers.DEEPLABV3,
    ("cvnets", "deeplabv3"): cvnets.DEEPLABV3,
    ("cvnets", "ssdlite"): ssdlite.CVNETS,
}
"""The tables of what stands on a backbone, by library and head: ``part`` picks the head's tensors
out of a file, ``to_ours`` renames them. The backbone's are renamed by ``ADAPTERS``."""
