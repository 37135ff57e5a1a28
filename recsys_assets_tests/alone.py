"""Runs a command on a network of its own, in which every address is this machine's and no port of it is open.

Whatever the command, its children or a JVM send to another machine is refused at once, and seen on the way: also a
question for a name. `python -m recsys_assets_tests.alone COMMAND …` works inside a new network namespace, of which the
calling user is root; `destinations` makes one.
"""

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

_ETHERNET = 14
_NAME_SERVICE = 53
# Flags of TCP.
_SYN, _ACK = 0x02, 0x10
_ALL_IS_LOCAL = [
    ["ip", "link", "set", "lo", "up"],
    ["ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo"],
    ["ip", "-6", "route", "add", "local", "::/0", "dev", "lo"],
]
_ALL_PROTOCOLS = socket.htons(0x0003)


def require_namespaces() -> None:
    """Skip the test where this user may make no network of its own."""
    tools = shutil.which("unshare") and shutil.which("ip")
    if not tools or subprocess.run(["unshare", "--map-root-user", "--net", "true"], check=False).returncode:
        pytest.skip("needs unshare and ip, and the permission to make a network namespace")


def destinations(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> set[str]:
    """Run a command that must succeed; the other machines that it tried to reach."""
    found = log.with_suffix(".json")
    own = ["unshare", "--map-root-user", "--net", sys.executable, "-m", __name__, str(found)]
    with log.open("ab") as sink:
        done = subprocess.run([*own, *command], stdout=sink, stderr=sink, env=environment, check=False)
    assert done.returncode == 0, log.read_text()
    return set(json.loads(found.read_text()))


def _destination(frame: bytes) -> str | None:
    """Where a packet goes, if it opens a connection to another machine, is a datagram for one, or asks for a name."""
    packet = frame[_ETHERNET:]
    version = packet[0] >> 4
    if version == 4:
        address, protocol, content = ipaddress.ip_address(packet[16:20]), packet[9], packet[4 * (packet[0] & 15) :]
    elif version == 6:
        address, protocol, content = ipaddress.ip_address(packet[24:40]), packet[6], packet[40:]
    else:
        return None
    opens = protocol == socket.IPPROTO_TCP and content[13] & (_SYN | _ACK) == _SYN
    if not opens and protocol != socket.IPPROTO_UDP:
        return None
    port = int.from_bytes(content[2:4])
    return f"{address} port {port}" if not address.is_loopback or port == _NAME_SERVICE else None


def _main(found: Path, command: list[str]) -> int:
    for step in _ALL_IS_LOCAL:
        subprocess.run(step, check=True)
    seen: set[str] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ALL_PROTOCOLS) as tap:
        tap.bind(("lo", 0))

        def watch() -> None:
            while frame := tap.recv(65535):
                if where := _destination(frame):
                    seen.add(where)

        threading.Thread(target=watch, daemon=True).start()
        status = subprocess.run(command, check=False).returncode
        found.write_text(json.dumps(sorted(seen)))
    return status


if __name__ == "__main__":
    status = _main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(status)
