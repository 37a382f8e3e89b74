"""Run by a fault test in a process of its own: bring an index to a world given as JSON, once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.indexer.indexes import update

if __name__ == "__main__":
    update(Path(sys.argv[1]), json.loads(sys.argv[2]))
