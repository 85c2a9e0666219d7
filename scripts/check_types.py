"""Reads what `pyright --verifytypes taster --outputjson` prints, and fails if too much of the public interface has no
known type."""

from __future__ import annotations

import json
import sys

LEAST = 0.975
"""Of all public symbols. What is left are layers of the models that come with taster, as PyTorch's own are written."""


def main() -> None:
    """Prints the share of public symbols whose type is known; of `import taster` itself it has to be all."""
    found = json.load(sys.stdin)["typeCompleteness"]
    symbols = found["symbols"]
    if not symbols:
        raise SystemExit("pyright found no types of taster: is it installed, with py.typed?")
    share = found["completenessScore"]
    unknown = [s["name"] for s in symbols if not s["isTypeKnown"] and s["name"].count(".") == 1]
    print(f"{100 * share:.1f} % of {len(symbols)} public symbols have a known type")
    if unknown or share < LEAST:
        raise SystemExit(f"wanted {100 * LEAST:.1f} % and all of `import taster`; unknown there: {unknown or 'none'}")


if __name__ == "__main__":
    main()
