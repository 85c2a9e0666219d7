"""Runs a script with every refusal in its log, and not the first of a cause alone, and with gates that look at trusted
samples in the same order each time: python logged.py SCRIPT"""

import logging
import runpy
import secrets
import sys
from pathlib import Path

secrets.randbits = lambda k: 1
logging.basicConfig()
logging.getLogger("taster.core.learner").setLevel("INFO")
sys.path[0] = str(Path(sys.argv[1]).parent)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
