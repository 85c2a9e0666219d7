"""Runs a script with every refusal in its log, and not the first of a cause alone: python logged.py SCRIPT"""

import logging
import runpy
import sys
from pathlib import Path

logging.basicConfig()
logging.getLogger("taster.core.learner").setLevel("INFO")
sys.path[0] = str(Path(sys.argv[1]).parent)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
