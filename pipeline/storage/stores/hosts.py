"""Which web servers may be asked: those on a list, and at no address of an inner network unless that is on the list, too."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from infinitedub.pipeline.storage.stores.store import Refused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z]([a-z0-9-]*[a-z0-9])?")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
INNER = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's metadata, at an address that looks public
        "192.0.0.0/24",  # RFC 6890, and Oracle's metadata; older Pythons call it public
        "192.88.99.0/24",  # RFC 7526, a way into 6to4
        "2001::/23",  # RFC 2928, Teredo among it
        "64:ff9b:1::/48",  # RFC 8215, a translator of one's own
        "3fff::/20",  # RFC 9637, for documentation
        "fec0::/10",  # RFC 3879, what fc00::/7 was before
    )
)
"""Not for the public, though `ipaddress.is_global` of some Python says so."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """The list, read."""

    names: frozenset[str]
    suffixes: tuple[str, ...]  # each with its leading dot
    networks: tuple[Network, ...]

    def check_host(self, host: str) -> None:
        """Raises Refused for a host, name or address, that is not on the list."""
        name = host.lower().rstrip(".")
        address = _address(name)
        if address is not None:
            self.check_address(host, address)
            if not self._holds(address):
                raise Refused(f"the host {host} is not among those that may be read from; add it to storage.sources.hosts if it may")
        elif name not in self.names and not name.endswith(self.suffixes):
            raise Refused(f"the host {host} is not among those that may be read from; add it to storage.sources.hosts if it may")

    def check_address(self, host: str, address: Address) -> None:
        """Raises Refused for an address, that `host` has, which no stranger could reach and which is not on the list itself."""
        if not self._holds(address) and not public(address):
            raise Refused(
                f"the host {host} has the address {address}, which is not a public one; where that is meant, add {address} to storage.sources.hosts"
            )

    def _holds(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def read_hosts(entries: Iterable[str]) -> Hosts:
    """The list as it is written: names, `*.` and a domain for all names below it, addresses, networks. Raises ValueError."""
    names, suffixes, networks = set(), [], []
    for entry in entries:
        text = entry.lower()
        if NAME.fullmatch(text):
            if text.startswith("*."):
                suffixes.append(text[1:])
            else:
                names.add(text)
            continue
        try:
            networks.append(ip_network(text.removeprefix("[").removesuffix("]")))
        except ValueError as error:
            raise ValueError(f"{entry!r}; wanted a name (media.example.org, *.example.org), an address or a network (10.1.0.0/16)") from error
    return Hosts(frozenset(names), tuple(suffixes), tuple(networks))


def public(address: Address) -> bool:
    """Whether an address is of the open internet, and not this machine's, its network's, or that of a cloud's metadata."""
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)
        if inside is not None:
            return public(inside)
    closed = not address.is_global or address.is_multicast or address.is_reserved
    return not closed and not any(address in network for network in INNER)


def _address(name: str) -> Address | None:
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
