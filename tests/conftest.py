"""Before anything imports lightning: it imports torchvision where there is one, and that may lack its operators."""

from __future__ import annotations

from benchmarks.zoo import declare_torchvision_operators

declare_torchvision_operators()
