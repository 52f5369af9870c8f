"""Which web servers may be read from: those on a list, and never at a private address unless that address is on the list too."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from infinitedub.pipeline.storage.stores.store import AccessRefused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z]([a-z0-9-]*[a-z0-9])?")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's metadata, at an address that looks public
        "192.0.0.0/24",  # RFC 6890, and Oracle's metadata; public in older Python versions
        "192.88.99.0/24",  # RFC 7526, the 6to4 relay anycast addresses
        "2001::/23",  # RFC 2928, including Teredo
        "64:ff9b:1::/48",  # RFC 8215, local-use IPv4/IPv6 translation
        "3fff::/20",  # RFC 9637, for documentation
        "fec0::/10",  # RFC 3879, the deprecated site-local addresses
    )
)
"""Networks that are not public, although `ipaddress.is_global` of some Python versions says so."""


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts and networks that may be read from."""

    names: frozenset[str]
    suffixes: tuple[str, ...]  # each with its leading dot
    networks: tuple[Network, ...]

    def check_host(self, host: str) -> None:
        """Raises AccessRefused if the host, a name or an address, is not on the list."""
        name = host.lower().rstrip(".")
        address = _address(name)
        if address is not None:
            self.check_address(host, address)
            if not self._allows(address):
                raise AccessRefused(f"the host {host} may not be read from; to allow it, add it to storage.sources.hosts")
        elif name not in self.names and not name.endswith(self.suffixes):
            raise AccessRefused(f"the host {host} may not be read from; to allow it, add it to storage.sources.hosts")

    def check_address(self, host: str, address: Address) -> None:
        """Raises AccessRefused if the address of `host` is not public and not on the list itself."""
        if not self._allows(address) and not is_public(address):
            raise AccessRefused(
                f"the host {host} has the address {address}, which is not public; to allow it, add {address} to storage.sources.hosts"
            )

    def _allows(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def parse_hosts(entries: Iterable[str]) -> AllowedHosts:
    """Parses the list: names, `*.domain` for all names below it, addresses, networks. Raises ValueError."""
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
    return AllowedHosts(frozenset(names), tuple(suffixes), tuple(networks))


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet: not to this machine, its network, or the metadata service of a cloud."""
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour or (IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)
        if embedded is not None:
            return is_public(embedded)
    private = not address.is_global or address.is_multicast or address.is_reserved
    return not private and not any(address in network for network in NOT_PUBLIC)


def _address(name: str) -> Address | None:
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
