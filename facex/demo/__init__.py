"""What facex brings along: a small detector, the renderer of the photographs it was trained on, and its training.

Lengths in this room are in *units*: an adult's cheekbones are 1.5 of them apart. Axes are those of the camera: x to the
right, y up, z towards it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from facex.types import ChannelOrder, ContractOptions

CHECKPOINT_NAME = "facex-demo.pth"
RECORD_NAME = "facex-demo.json"
CHECKPOINT = Path(__file__).with_name(CHECKPOINT_NAME)
RECORD = Path(__file__).with_name(RECORD_NAME)

CONTRACT = ContractOptions(
    activation_slope=0.1,
    pyramid_slope=0.1,
    min_sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
    variances=(0.1, 0.2),
    channel_order=ChannelOrder.BGR,
    mean=(104.0, 117.0, 123.0),
    scale=(1.0, 1.0, 1.0),
)
"""What the bundled detector was trained with."""


def is_bundled(sha256: str) -> bool:
    """Whether a checkpoint of this SHA-256 sum is the bundled one."""
    return CHECKPOINT.is_file() and hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest() == sha256
