"""Effects. A private one-node Ceph with an S3 gateway on loopback, from Debian's packages; no root needed.

    apt-get install --no-install-recommends radosgw ceph-mon ceph-osd

By hand: `python tests/servers/ceph.py` prints how to reach it and serves until it is interrupted.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
KEY, SECRET = "fleetkey", "fleetsecret"
_PATIENCE = 90.0  # seconds until it must answer, on a busy machine
_LIMIT = 8 << 30  # bytes that the objects in memory may take

_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
run dir = {home}
admin socket = {home}/$name.$pid.asok
log file = {home}/$name.log
crash dir = {home}
mon data = {home}/mon
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.05
paxos min wait = 0.01
ms bind ipv6 = false
ms mon client mode = crc
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = {limit}
osd memory target = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
rgw frontends = beast endpoint=127.0.0.1:{gateway_port} tcp_nodelay=1
rgw rados pool pg num min = 4
rgw enable usage log = false
rgw run sync thread = false
rgw dns name = localhost
"""


def missing() -> str:
    """Which programs are not installed and how to get them; empty if all are there."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if not absent:
        return ""
    return f"no {', '.join(absent)}: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """An S3 server that tests may use; buckets are never reused, so that tests do not see each other."""

    endpoint: str
    key: str
    secret: str
    processes: tuple[int, ...] = ()
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def boto(self) -> dict[str, Any]:
        """Arguments of boto3.client("s3", …)."""
        return {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
            "region_name": "us-east-1",
        }

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which boto3 finds these credentials and no others; the endpoint belongs in the StoreSpec."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain boto3 client, for looking behind the store's back."""
        import boto3
        from botocore.config import Config

        return boto3.client("s3", **self.boto, config=Config(s3={"addressing_style": "path"}))

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"fleet-{next(self._numbers)}-{uuid.uuid4().hex[:8]}"
        self.client().create_bucket(Bucket=name)
        return name


@contextmanager
def serve() -> Iterator[S3Server]:
    """Starts mon, osd and gateway in a new directory, and stops exactly these three at the end."""
    home = Path(tempfile.mkdtemp(prefix="rgw-"))  # short: sockets lie in it
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        gateway_port, fsid, osd = _free_port(), str(uuid.uuid4()), str(uuid.uuid4())
        mon_port = _free_port()
        configuration = home / "ceph.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                home=home, fsid=fsid, mon_port=mon_port, gateway_port=gateway_port, limit=_LIMIT
            )
        )
        for name in ("mon", "osd"):
            (home / name).mkdir()

        def call(*command: str) -> None:
            arguments = [command[0], "-c", str(configuration), *command[1:]]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=_PATIENCE)
            assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"

        def start(*command: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((home / f"{command[0]}.out").open("ab"))
            arguments = [*_dies_with_us(), command[0], "-c", str(configuration), "-f", *command[1:]]
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(_stop, process)
            return process

        address = f"[v2:127.0.0.1:{mon_port}]"
        call("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, str(home / "monmap"))
        call("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(home / "monmap"))
        processes = [start("ceph-mon", "-i", "a")]
        call("ceph", "--connect-timeout", "60", "osd", "new", osd)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        processes.append(start("ceph-osd", "-i", "0"))
        call(
            "radosgw-admin", "user", "create", "--uid=fleet", "--display-name=fleet",
            f"--access-key={KEY}", f"--secret={SECRET}",
        )  # fmt: skip
        processes.append(start("radosgw", "-n", "client.rgw"))
        endpoint = f"http://127.0.0.1:{gateway_port}"
        _wait_until_it_answers(endpoint, processes, home)
        yield S3Server(endpoint=endpoint, key=KEY, secret=SECRET, processes=tuple(p.pid for p in processes))


def _wait_until_it_answers(endpoint: str, processes: list[subprocess.Popen[bytes]], home: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(endpoint, timeout=2):
                return
        except OSError:
            dead = [process.args for process in processes if process.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in home.glob("*.out"))
                raise RuntimeError(f"Ceph did not start; ended: {dead}\n{logs}") from None
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing that it holds outlives the test run
    process.wait()


def _dies_with_us() -> list[str]:
    """A prefix that lets the kernel end a server whose test run was killed."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    began = time.monotonic()
    with serve() as server:
        print(
            f"{server.endpoint} {server.key} {server.secret} ready in {time.monotonic() - began:.1f} s",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            signal.pause()
