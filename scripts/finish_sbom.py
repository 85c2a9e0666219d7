"""Makes taster the subject of a CycloneDX list of an environment that has it, and leaves out where on this machine its
wheel lay: `python finish_sbom.py FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(path: Path) -> None:
    """Rewrites the file. Fails if a component has no licence, as the list is there to tell it."""
    sbom = json.loads(path.read_text(encoding="utf-8"))
    (subject,) = [entry for entry in sbom["components"] if entry["name"] == "taster"]
    sbom["components"].remove(subject)
    subject.pop("externalReferences", None)
    sbom["metadata"]["component"] = subject
    unlicensed = [entry["name"] for entry in sbom["components"] if not entry.get("licenses")]
    if unlicensed:
        raise SystemExit(f"no licence is told of {', '.join(unlicensed)}")
    text = json.dumps(sbom, indent=1, sort_keys=True) + "\n"
    if "file://" in text:
        raise SystemExit(f"{path} names a file of this machine")
    path.write_text(text, encoding="utf-8")
    print(f"{len(sbom['components'])} components, each with its licence")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
