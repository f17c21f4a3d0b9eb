"""The program `archer` with one more preset, "tiny": all six tasks, an epoch of sixty-four examples; and with
"tiny-2", the same for two epochs.

    python tests/cycle/archer_tiny.py run --preset tiny

--limit-file-bytes N, given first, stands for a disk on which no file can grow beyond that.
"""

from __future__ import annotations

import sys

from tests.cycle.tiny import TINY, TINY_2

from archer.mad import PRESETS


def main() -> None:
    if sys.argv[1:2] == ["--limit-file-bytes"]:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
        del sys.argv[1:3]
    PRESETS.update({preset.name: preset for preset in (TINY, TINY_2)})
    from archer.cli import main

    main()


if __name__ == "__main__":
    main()
