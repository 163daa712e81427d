"""A long log in large step files is imported in bounded memory; by hand, at full size: AD_DISTILL_LOG_MB=1000."""

import json
import os
import subprocess
import sys

import numpy as np

SIZE = int(os.environ.get("AD_DISTILL_LOG_MB", "100"))  # of the log; of 1000 MB the files have 64
FILE = max(16, 64 * SIZE // 1000)
BOUND = 500 if SIZE >= 1000 else 320  # MB of memory, of which an empty import takes about 200
IMPORT = """
import json, resource, sys
from ad_distill import import_log
from ad_distill.rlhf.conversations import stored_rollouts
store, said = import_log("roll", sys.argv[1], sys.argv[2], turns=len(sys.argv) > 3)
last = next(stored_rollouts(store, 0, said["rollouts"] - 1)) if len(sys.argv) > 3 else None
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps(dict(peak=peak, rollouts=said["rollouts"], size=sum(p.stat().st_size for p in store.path.rglob("*")))))
"""
