"""torchvision's detectors without what is no network: anchors, proposals, sorting, suppression.

What remains runs from the images to the predictions of the heads. RoIAlign is replaced by pooling
of the finest level to the size that the box heads expect.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAMES: tuple[str, ...] = (
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssd300_vgg16",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
)


class OneStage(nn.Module):
    """Backbone and head of RetinaNet, FCOS and SSD."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, images: Tensor) -> Any:
        """Return the head's predictions on all levels."""
        return self.head(list(_levels(self.backbone(images)).values()))


class TwoStage(nn.Module):
    """Backbone, proposal head and box, mask and keypoint heads of the R-CNNs."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.proposals = detector.rpn.head
        self.heads = nn.ModuleList()
        self.sizes: list[int] = []
        boxes = detector.roi_heads
        for kind, size in (("box", 7), ("mask", 14), ("keypoint", 14)):
            head = getattr(boxes, f"{kind}_head", None)
            if head is not None:
                self.heads.append(nn.Sequential(head, getattr(boxes, f"{kind}_predictor")))
                self.sizes.append(size)

    def forward(self, images: Tensor) -> Any:
        """Return objectness and box offsets on all levels, and each head's predictions."""
        levels = _levels(self.backbone(images))
        finest = next(iter(levels.values()))
        regions = [
            head(F.adaptive_avg_pool2d(finest, size))
            for head, size in zip(self.heads, self.sizes, strict=True)
        ]
        return self.proposals(list(levels.values())), regions


def build(name: str) -> nn.Module:
    """Return the body of a torchvision detector."""
    from torchvision import models

    detector: Any = models.get_model(name, weights=None, weights_backbone=None)
    two_stages = hasattr(detector, "roi_heads")
    return (TwoStage(detector) if two_stages else OneStage(detector)).eval()


def _levels(features: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return {"0": features} if isinstance(features, torch.Tensor) else features
