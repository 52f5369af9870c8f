"""S3 servers over HTTP for tests: moto, which is well behaved, and OpenStack Swift, a real one that creates check-then-write.

Each lives in an environment of its own beside `.venv`, since their pins and ours exclude each other.
`python tests/cluster/servers.py` makes the environments; tests only use them.
"""

import getpass
import socket
import subprocess
import sys
import time
import venv
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
MOTO = ROOT / ".venv-moto", "moto[s3,server]==5.2.5"
SWIFT = ROOT / ".venv-swift", "swift==2.38.3"
READY_SECONDS = 300  # Swift took 66 where both cores were taken
PORTS = range(20000, 32768)

_numbers = count()


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    name: str
    endpoint: str
    env: dict[str, str]  # credentials, as every S3 client reads them
    exclusive: bool  # whether create-only puts are atomic

    @property
    def options(self) -> dict[str, Any]:
        """For `StorageSettings.options`."""
        s3 = {"endpoint_url": self.endpoint, "region_name": "us-east-1", "addressing_style": "path"}
        return {"s3": {**s3, "request_checksum_calculation": "when_supported", "connect_seconds": 5, "read_seconds": 30}}

    def overrides(self, bucket: str) -> list[str]:
        """Words for a `dub` command line."""
        return [
            "storage=s3",
            f"storage.root=s3://{bucket}/dub",
            f"storage.options.s3.endpoint_url={self.endpoint}",
            "storage.options.s3.addressing_style=path",
        ]

    def filesystem(self) -> Any:
        """An s3fs of our own, to look from outside at what the product has done."""
        import s3fs

        return s3fs.S3FileSystem(
            key=self.env["AWS_ACCESS_KEY_ID"],
            secret=self.env["AWS_SECRET_ACCESS_KEY"],
            client_kwargs={"endpoint_url": self.endpoint, "region_name": "us-east-1"},
            config_kwargs={"s3": {"addressing_style": "path"}},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def bucket(self) -> str:
        """Name of a new, empty bucket."""
        name = f"test-{next(_numbers)}-{time.time_ns() % 10**9}"
        self.filesystem().call_s3("create_bucket", Bucket=name)
        return name


class Processes:
    """Servers we started; ended by their own process ids."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, *command: str | Path) -> None:
        """Starts a process with its output in a file."""
        path = self._logs / f"{len(self._running)}.log"
        with path.open("wb") as out:
            self._running.append((subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT), path))

    def wait_for(self, url: str) -> None:
        """Returns as soon as the URL answers anything. Raises with the logs where that does not happen."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and all(process.poll() is None for process, _ in self._running):
            try:
                urlopen(url, timeout=5).close()
                return
            except HTTPError as answer:
                if answer.code < 500:
                    return
            except (URLError, TimeoutError, ConnectionError):
                pass
            time.sleep(0.1)
        raise RuntimeError(f"no answer from {url}:\n" + "\n".join(log.read_text(errors="replace")[-2000:] for _, log in self._running))

    def stop(self) -> None:
        """Ends them all."""
        for process, _ in self._running:
            process.terminate()
        for process, _ in self._running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start_moto(folder: Path) -> tuple[S3Server, Processes]:
    """Moto, in memory. It looks and then writes, as Swift does: what may be exclusive goes one by one."""
    (port,) = free_ports(1)
    processes = Processes(folder)
    try:
        processes.start(program(MOTO, "python"), "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port))
        processes.wait_for(f"http://127.0.0.1:{port}/moto-api/")
    except BaseException:
        processes.stop()
        raise
    env = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    return S3Server("moto", f"http://127.0.0.1:{port}", env, exclusive=True), processes


def start_swift(folder: Path) -> tuple[S3Server, Processes]:
    """Swift with s3api on one folder, one replica, without memcached or root. The folder's disk must know user xattrs."""
    ports = dict(zip(("account", "container", "object", "proxy"), free_ports(4), strict=True))
    etc = folder / "etc"
    etc.mkdir()
    (folder / "srv" / "d1").mkdir(parents=True)
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    builder = program(SWIFT, "swift-ring-builder")
    processes = Processes(folder)
    try:
        for kind in ("account", "container", "object"):
            ring = etc / f"{kind}.builder"
            for words in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{ports[kind]}/d1", "1"], ["rebalance"]):
                subprocess.run([builder, ring, *words], check=True, capture_output=True)
            conf = etc / f"{kind}-server.conf"
            conf.write_text(
                _common(folder, ports[kind]) + f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
            )
            processes.start(program(SWIFT, f"swift-{kind}-server"), conf)
        conf = etc / "proxy-server.conf"
        conf.write_text(_common(folder, ports["proxy"]) + _PROXY)
        processes.start(program(SWIFT, "swift-proxy-server"), conf)
        for kind in ("account", "container", "object"):
            _wait_for_port(ports[kind])
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        processes.wait_for(endpoint)
    except BaseException:
        processes.stop()
        raise
    env = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    return S3Server("swift", endpoint, env, exclusive=False), processes


_MOTO = """
from threading import Lock
from moto.s3.responses import S3Response
from moto.server import main

turn = Lock()

def one_by_one(call):
    def called(*given, **named):
        with turn:
            return call(*given, **named)
    return called

for name in ("put_object", "_key_response_post"):  # the latter completes uploads
    setattr(S3Response, name, one_by_one(getattr(S3Response, name)))
main()
"""

_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth copy slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_limit = 1000000
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
s3_acl = no
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
""" + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in ("catch_errors", "gatekeeper", "listing_formats", "copy", "slo"))


def _common(folder: Path, port: int) -> str:
    settings = {
        "devices": folder / "srv",
        "swift_dir": folder / "etc",
        "mount_check": "false",
        "bind_ip": "127.0.0.1",
        "bind_port": port,
        "workers": 0,
        "user": getpass.getuser(),
        "log_address": "/nonexistent",  # no syslog: logs go to stderr
        "fallocate_reserve": 0,
        "conn_timeout": 30,  # the shipped half second to ten are for a machine that does nothing else
        "node_timeout": 120,
        "container_update_timeout": 120,  # later, and a listing does not know of a put that was answered
    }
    return "[DEFAULT]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def free_ports(n: int) -> list[int]:
    """Ports nobody listens on at this moment. Not of those that Linux gives away by itself: one would be taken before its server has begun."""
    ports: list[int] = []
    for port in SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == n:
            return ports
    raise RuntimeError(f"fewer than {n} ports are free from {PORTS.start} to {PORTS.stop - 1}")


def program(environment: tuple[Path, str], name: str) -> Path:
    """A program of one of the environments."""
    path = environment[0] / "bin" / name
    if not path.exists():
        raise RuntimeError(f"{path} is not there: run `make setup`, or `python tests/cluster/servers.py`, which makes {environment[0].name}")
    return path


def install() -> None:
    """Makes the environments that are missing or hold another version."""
    for folder, requirement in (MOTO, SWIFT):
        stamp = folder / "made-for"
        if stamp.exists() and stamp.read_text() == requirement:
            continue
        venv.create(folder, with_pip=True, clear=True, symlinks=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", requirement], check=True)
        stamp.write_text(requirement)


if __name__ == "__main__":
    sys.exit(install())
