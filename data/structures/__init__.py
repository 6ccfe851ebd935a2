"""Which latents? Structures of video autoencoders, trained alike in the miniature's world.

Clips, two-call coding, losses, trainer and log are the miniature's own: its folder, whose name is
no package's, is put on the path here.
"""

import sys
from pathlib import Path

HOME = Path(__file__).parent
sys.path.insert(0, str(HOME.parent / "tiny-wan"))
