"""A whole federation on this machine: a SuperLink and its SuperNodes, each a process, and one run of the app.

    python examples/flower/deploy.py --nodes 5 --attack sign_flip --attackers 3

Everything ends with the run: no process is left behind, and nothing is written outside of a temporary folder except
the file that --out names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Starts all, waits for the run, ends all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5, help="SuperNodes")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--attack", choices=["none", "sign_flip", "label_flip", "collude"], default="sign_flip")
    parser.add_argument("--attackers", type=int, nargs="*", default=[3], help="nodes that are the attacker's")
    parser.add_argument("--num-byzantine", type=int, default=1, help="malicious nodes that the trimmed mean withstands")
    parser.add_argument("--no-guard", action="store_true")
    parser.add_argument("--out", type=Path, help="file for the model and the rounds, as taster.load_state reads it")
    parser.add_argument("--timeout", type=float, default=300, help="seconds, for all of it")
    asked = parser.parse_args()
    wanted = [i for i in asked.attackers if not 0 <= i < asked.nodes]
    if wanted and asked.attack != "none":
        parser.error(f"--attackers: got {wanted}, wanted numbers from 0 to {asked.nodes - 1}")
    out = "" if asked.out is None else str(asked.out.resolve())
    settings = {
        "rounds": asked.rounds,
        "nodes": asked.nodes,
        "num_byzantine": asked.num_byzantine,
        "guard": not asked.no_guard,
        "collusion": asked.attack == "collude",
        "out": out,
    }
    with tempfile.TemporaryDirectory() as home, processes(Path(home)) as start:
        link = free_port()
        (Path(home) / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
        )
        start(
            "flower-superlink",
            *("--insecure", "--host", "127.0.0.1", "--port", str(link), "--disable-runtime-dependency-installation"),
        )
        wait_for(link, asked.timeout)
        for i in range(asked.nodes):
            role = asked.attack if i in asked.attackers else "none"
            node = f'partition-id={i} num-partitions={asked.nodes} attack="{role}"'
            start(
                "flower-supernode",
                *("--insecure", "--superlink", f"127.0.0.1:{link}", "--port", str(free_port()), "--node-config", node),
            )
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        run = start("flwr", "run", str(HERE), "here", "--stream", "--run-config", config, shown=True)
        try:
            run.wait(asked.timeout)
        except subprocess.TimeoutExpired:
            return failed(f"the run was not over after {asked.timeout:g} seconds", Path(home))
        if run.returncode or (out and not Path(out).exists()):
            return failed("the run ended without a result", Path(home))
    return 0


def failed(what: str, home: Path) -> int:
    """Says so, with the last words of each process."""
    for path in sorted(home.glob("*.log")):
        print(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}", file=sys.stderr)
    print(f"error: {what}", file=sys.stderr)
    return 1


@contextmanager
def processes(home: Path) -> Iterator[object]:
    """What starts processes, all of which end with the block, and their children with them."""
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    running: list[subprocess.Popen[bytes]] = []

    def start(command: str, *arguments: str, shown: bool = False) -> subprocess.Popen[bytes]:
        found = shutil.which(command, path=environment["PATH"])
        if found is None:
            raise SystemExit(f'error: {command} not found; install the extra: pip install "taster[flower]"')
        log = None if shown else open(home / f"{command}-{len(running)}.log", "wb")  # noqa: SIM115 (the child's)
        process = subprocess.Popen(
            [found, *arguments], env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
        running.append(process)
        return process

    try:
        yield start
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in reversed(running):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)  # a session of its own: the processes that it started go with it
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and any(process.poll() is None for process in running):
                time.sleep(0.05)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(port: int, seconds: float) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise SystemExit("error: the SuperLink did not start")
        time.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended then too
    sys.exit(main())
