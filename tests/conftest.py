"""Before anything imports torch or lightning.

Networks here are tiny, so that a second thread only waits for the first; programs that tests start inherit this. And
lightning imports torchvision where there is one, which may lack its operators.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.zoo import declare_torchvision_operators

declare_torchvision_operators()
