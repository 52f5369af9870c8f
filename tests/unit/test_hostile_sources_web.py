"""Sources on web servers: none but those that are listed, at addresses that may be reached, and not a byte more than was allowed."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from infinitedub.pipeline.state.content_keys import key_of, source_fingerprint
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage import storage
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.pipeline.storage.stores import storage_retry, web
from infinitedub.pipeline.storage.stores.hosts import is_public, parse_hosts
from infinitedub.pipeline.storage.stores.store import AccessRefused
from infinitedub.stages.errors import BadInput, Transient

Make = Callable[..., Storage]


# -- the list of web servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "open_to_all"),
    [
        *((text, True) for text in ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1")),
        *((text, False) for text in ("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1")),
        *(
            (text, False)
            for text in (
                "169.254.169.254",
                "100.100.100.200",
                "168.63.129.16",
                "192.0.0.192",
                "192.88.99.1",
                "224.0.0.1",
                "255.255.255.255",
                "240.0.0.1",
            )
        ),
        *(
            (text, False)
            for text in ("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "3fff::1", "5f00::1", "::7f00:1", "2001:0:a00:1::")
        ),
        *((text, False) for text in ("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::")),
    ],
)
def test_which_addresses_are_public(address: str, open_to_all: bool) -> None:
    assert is_public(ip_address(address)) is open_to_all


@pytest.mark.parametrize(
    "host", ["media.example.org", "MEDIA.example.ORG.", "a.cdn.example.org", "b.a.cdn.example.org", "10.1.2.3", "[fd00::7]", "9.9.9.9"]
)
def test_hosts_that_are_listed(host: str) -> None:
    parse_hosts(["media.Example.org", "*.cdn.example.org", "10.1.0.0/16", "fd00::7", "9.9.9.9"]).check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *("example.org", "evil-media.example.org", "media.example.org.evil.com", "cdn.example.org", "evilcdn.example.org", "x.media.example.org"),
        *(
            "10.2.0.1",
            "127.0.0.1",
            "1.1.1.1",
            "[::1]",
            "fd00::8",
            "::ffff:127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "017700000001",
            "localhost",
            "",
        ),
    ],
)
def test_hosts_that_are_not(host: str) -> None:
    with pytest.raises(AccessRefused, match=r"storage\.sources\.hosts"):
        parse_hosts(["media.example.org", "*.cdn.example.org", "10.1.0.0/16", "fd00::7"]).check_host(host)


@pytest.mark.parametrize(
    "entry", ["*", "", "*.", "https://media.example.org", "media.example.org:80", "a b", "10.1.0.1/16", "127.1", "media.*.org", "-x.org"]
)
def test_a_list_that_cannot_be_meant(storage_with: Make, entry: str) -> None:
    with pytest.raises(ValidationError, match="wanted a name"):
        storage_with(hosts=[entry])


# -- web servers, real ones of this machine ---------------------------------------------------------------------------


class Site:
    """A server on all addresses of this machine; what it says to each path is a function of the request."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str]] = []  # Host header and path, in order
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.headers["Host"].partition(":")[0], self.path))
                self.close_connection = True
                try:
                    site.pages[self.path](self)
                except (BrokenPipeError, ConnectionResetError):
                    return  # the client has had enough

            def log_message(self, *words: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def uri(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def says(status: int = 200, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer that does not depend on the request; `_` in the names of headers is `-`."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(body)), "ETag": '"1"', "Connection": "close", **headers}.items():
            if value:
                request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries come without waiting in between."""
    monkeypatch.setattr(storage_retry, "sleep", lambda _: None)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """A name service: for each name the answers to be given one after the other, the last one for good."""
    answers: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *words: Any, **named: Any) -> Any:
        if host not in answers:
            return real(host, port, *words, **named)
        found = answers[host][0] if len(answers[host]) == 1 else answers[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


def test_a_listed_server_is_read(storage_with: Make, site: Site, tmp_path: Path) -> None:
    site.pages["/a.wav"] = says(body=b"voice")
    allowed = storage_with(hosts=["127.0.0.1"])
    found = allowed.stat_input(site.uri("/a.wav"))
    assert (found.bytes, found.version) == (5, '"1"')
    assert allowed.fetch_input(site.uri("/a.wav"), tmp_path / "copy").read_bytes() == b"voice"
    with StageFiles(allowed, stage="ingest", key="0" * 64) as files:
        path = files.fetch(site.uri("/a.wav"))
        assert (path.suffix, path.read_bytes()) == (".wav", b"voice")
    assert allowed.open_input(site.uri("/a.wav")).read() == b"voice"
    assert '"1"' in source_fingerprint(allowed, site.uri("/a.wav"))


def test_without_a_list_no_server_is_asked(storage_with: Make, site: Site) -> None:
    for uri in (site.uri("/a"), "HTTP" + site.uri("/a")[4:], "https://example.org/a.mp4"):
        with pytest.raises(BadInput, match=r"add (127\.0\.0\.1|example\.org) to storage\.sources\.hosts, or copy the file"):
            storage_with().stat_input(uri)
    assert site.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0", "[::1]", "evil%2eorg", "a b"]
)
def test_a_server_that_is_not_listed_is_not_asked(storage_with: Make, site: Site, host: str) -> None:
    with pytest.raises(BadInput):
        storage_with(hosts=["media.example.org", "*.example.org"]).stat_input(site.uri("/a", host))
    assert site.asked == []


def test_what_a_name_leads_to_is_judged(storage_with: Make, site: Site, names: dict[str, list[list[str]]]) -> None:
    names["media.example.org"] = [["127.0.0.1"]]
    site.pages["/a"] = says(body=b"voice")
    with pytest.raises(
        BadInput, match=r"media\.example\.org has the address 127\.0\.0\.1, which is not public.*add 127\.0\.0\.1 to storage\.sources"
    ):
        storage_with(hosts=["*.example.org"]).stat_input(site.uri("/a", "media.example.org"))
    assert site.asked == []
    assert storage_with(hosts=["*.example.org", "127.0.0.0/8"]).stat_input(site.uri("/a", "media.example.org")).bytes == 5


def test_one_private_address_among_public_ones_spoils_the_name(storage_with: Make, site: Site, names: dict[str, list[list[str]]]) -> None:
    names["media.example.org"] = [["93.184.216.34", "127.0.0.1"]]
    with pytest.raises(BadInput, match="which is not public"):
        storage_with(hosts=["media.example.org"]).stat_input(site.uri("/a", "media.example.org"))
    assert site.asked == []


def test_a_name_that_changes_its_mind_gains_nothing(storage_with: Make, site: Site, names: dict[str, list[list[str]]], tmp_path: Path) -> None:
    """DNS rebinding: the first answer is harmless, the second is not. The address that was judged is the one that is called."""
    site.pages["/a"] = says(body=b"voice")
    allowed = storage_with(hosts=["media.example.org", "127.0.0.1"])
    names["media.example.org"] = [["127.0.0.1"], ["169.254.169.254"]]
    assert allowed.stat_input(site.uri("/a", "media.example.org")).bytes == 5
    assert len(names["media.example.org"]) == 1  # looked up once for one request
    with pytest.raises(BadInput, match=r"169\.254\.169\.254, which is not public"):
        allowed.fetch_input(site.uri("/a", "media.example.org"), tmp_path / "copy")
    assert site.asked == [("media.example.org", "/a")]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://127.0.0.2:{port}/inner", r"127\.0\.0\.2, which is not public"),
        ("http://localhost:{port}/inner", "the host localhost may not be read from"),
        ("http://inner.example.org:{port}/inner", r"inner\.example\.org has the address 127\.0\.0\.9, which is not"),
        ("http://169.254.169.254/latest/meta-data/", r"169\.254\.169\.254"),
        ("http://[::1]:{port}/inner", "::1"),
        ("//evil.com/a", "the host evil.com may not be read from"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("ftp://127.0.0.1/a", "ftp://127.0.0.1/a"),
        ("gopher://127.0.0.1/a", "gopher://127.0.0.1/a"),
        ("http://", "http://"),
        ("/again", "TooManyRedirects"),
        ("http://a..example.org/", r"a\.\.example\.org|idna"),
        ("http://xn--a.example.org/", "idna"),
    ],
)
def test_a_redirect_leads_nowhere_that_is_not_listed(
    storage_with: Make, site: Site, names: dict[str, list[list[str]]], tmp_path: Path, target: str, said: str
) -> None:
    names["inner.example.org"] = [["127.0.0.9"]]
    site.pages["/again"] = site.pages["/a"] = says(302, Location=target.format(port=site.port))
    site.pages["/inner"] = says(body=b"secret")
    allowed = storage_with(hosts=["127.0.0.1", "*.example.org"])
    for call in (allowed.stat_input, lambda uri: allowed.fetch_input(uri, tmp_path / "copy")):
        with pytest.raises(BadInput, match=said):
            call(site.uri("/a"))
    assert {path for _, path in site.asked} <= {"/a", "/again"}


def test_a_signature_in_a_redirect_is_not_repeated(storage_with: Make, site: Site) -> None:
    site.pages["/a"] = says(302, Location="http://evil.com/a?signature=hush-hush")
    with pytest.raises(BadInput, match=r"http://evil\.com/a: the host") as refused:
        storage_with(hosts=["127.0.0.1"]).stat_input(site.uri("/a"))
    assert "hush-hush" not in str(refused.value)


def test_a_redirect_to_a_listed_server_is_followed(storage_with: Make, site: Site, names: dict[str, list[list[str]]]) -> None:
    names["cdn.example.org"] = [["127.0.0.1"]]
    site.pages["/a"] = says(307, Location=site.uri("/b", "cdn.example.org"))
    site.pages["/b"] = says(body=b"voice")
    assert storage_with(hosts=["127.0.0.1", "cdn.example.org"]).stat_input(site.uri("/a")).bytes == 5


def test_redirects_have_an_end(storage_with: Make, site: Site) -> None:
    for number in range(web.MAX_REDIRECTS + 3):
        site.pages[f"/{number}"] = says(302, Location=f"/{number + 1}")
    site.pages[f"/{web.MAX_REDIRECTS + 3}"] = says(body=b"voice")
    assert storage_with(hosts=["127.0.0.1"]).stat_input(site.uri("/4")).bytes == 5
    site.asked.clear()
    with pytest.raises(BadInput, match="TooManyRedirects"):
        storage_with(hosts=["127.0.0.1"]).stat_input(site.uri("/0"))
    assert len(site.asked) <= web.MAX_REDIRECTS + 1


def test_no_server_learns_what_another_has_said(
    storage_with: Make, site: Site, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cookies go along with a redirect, no packed body is asked for, and no proxy of the environment has a look."""
    heard: list[Any] = []
    body = says(body=b"voice")

    def answer(request: BaseHTTPRequestHandler) -> None:
        heard.append(request.headers)
        body(request)

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    names["media.example.org"] = [["127.0.0.1"]]
    site.pages["/a"] = says(302, Location="/b", Set_Cookie="who=me; Path=/")
    site.pages["/b"] = answer
    allowed = storage_with(hosts=["media.example.org", "127.0.0.1"])
    assert allowed.open_input(site.uri("/a", "media.example.org")).read() == b"voice"
    assert [(headers["Cookie"], headers["Accept-Encoding"]) for headers in heard] == [(None, "identity")] * 2


def test_passwords_in_addresses_are_refused_and_not_repeated(storage_with: Make) -> None:
    with pytest.raises(BadInput, match="user or password") as refused:
        storage_with(hosts=["example.org"]).stat_input("https://me:hush-hush@example.org/a")
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("https://", "https:///a", "https://[::1/a", "https://[zz]/a", "https://?a", "http://:80/a", "http://example.org:99999/a"),
        *("http://a..example.org/a", "http://.example.org/a", f"http://{'a' * 64}.example.org/a", "http://xn--a.example.org/a", "http://xn--a/a"),
    ],
)
def test_addresses_that_name_no_server(storage_with: Make, uri: str) -> None:
    with pytest.raises(BadInput):
        storage_with(hosts=["*.example.org", "example.org"]).stat_input(uri)


# -- what servers say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (says(404), BadInput, "does not exist"),
        (says(410), BadInput, "does not exist"),
        (says(403), BadInput, "403"),
        (says(401), BadInput, "401"),
        (says(500), Transient, "500"),
        (says(503), Transient, "503"),
        (says(429), Transient, "429"),
        (says(body=b"1\r\nx\r\n0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked"), BadInput, "does not send the length"),
        (says(body=b"x", ETag=""), BadInput, "does not send an ETag or Last-Modified"),
        (says(206, body=b"x", Content_Range="bytes 0-0/*"), BadInput, "does not send the length"),
        (says(body=b"x", Content_Encoding="gzip"), BadInput, "in the encoding gzip"),
        (says(body=b"x", Content_Encoding="\xff"), BadInput, "in the encoding \udcff"),
        (says(body=b"x", Content_Length="9999"), BadInput, r"9999 bytes; at most 1000 are read \(storage\.sources\.max_bytes\)"),
        (says(206, body=b"x", Content_Range="bytes 0-0/9999"), BadInput, "9999 bytes; at most 1000"),
        (says(206, body=b"x", Content_Range="bytes 0-0/" + "9" * 5000), BadInput, "does not send the length"),
        (says(416, body=b"go away"), BadInput, "does not send the length"),
        (says(302, body=b"moved"), BadInput, "answered 302; wanted a file"),
        (says(304), BadInput, "answered 304; wanted a file"),
    ],
)
def test_answers_that_are_no_file(storage_with: Make, site: Site, answer: Any, kind: type[Exception], said: str) -> None:
    site.pages["/a"] = answer
    with pytest.raises(kind, match=said):
        storage_with(hosts=["127.0.0.1"], max_bytes=1000).fetch_input(site.uri("/a"), Path(os.devnull))


def test_a_catalogue_is_bound_by_its_own_limit(storage_with: Make, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by that of the media, which are not held in memory; and what broke off is no catalogue of fewer rows."""
    monkeypatch.setattr(storage, "MAX_CATALOGUE_BYTES", 1000)
    site.pages["/long"] = first_honest(says(body=bytes(5000)))
    site.pages["/short"] = first_honest(says(body=b"{}\n"))
    with pytest.raises(BadInput, match="more than 1000 bytes"):
        storage_with(hosts=["127.0.0.1"]).open_input(site.uri("/long"))
    with pytest.raises(Transient, match="had 10 bytes, but 3 were received"):
        storage_with(hosts=["127.0.0.1"]).open_input(site.uri("/short"))


def test_an_answer_whose_etag_is_no_text_makes_a_key(storage_with: Make, site: Site) -> None:
    site.pages["/a"] = says(body=b"voice", ETag='"\xff\x80"')
    version = source_fingerprint(storage_with(hosts=["127.0.0.1"]), site.uri("/a"))
    assert len(key_of("ingest", 1, (), {}, {"inputs": [version]})) == 64


def test_an_empty_file_is_known_by_its_refusal_of_the_first_byte(storage_with: Make, site: Site) -> None:
    site.pages["/a"] = says(416, Content_Range="bytes */0")
    assert storage_with(hosts=["127.0.0.1"]).stat_input(site.uri("/a")).bytes == 0


def first_honest(then: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler], None]:
    """A server that says ten bytes when it is asked, and something else when it is read."""
    honest = says(206, body=b"x", Content_Range="bytes 0-0/10")
    return lambda request: (honest if "Range" in request.headers else then)(request)


def without_end(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("ETag", '"1"')
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    while True:
        request.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")


@pytest.mark.parametrize("then", [without_end, says(body=bytes(5000))])
def test_a_body_that_is_longer_than_was_said_is_cut_off(storage_with: Make, site: Site, tmp_path: Path, then: Any) -> None:
    site.pages["/a"] = first_honest(then)
    with pytest.raises(BadInput, match="more than 1000 bytes"):
        storage_with(hosts=["127.0.0.1"], max_bytes=1000).fetch_input(site.uri("/a"), tmp_path / "copy")


@pytest.mark.parametrize("then", [says(body=b"123456789"), says(body=b"12345", Content_Length="10")], ids=["shorter", "broken off"])
def test_half_a_file_is_no_file(storage_with: Make, site: Site, tmp_path: Path, then: Any) -> None:
    site.pages["/a"] = first_honest(then)
    with pytest.raises(Transient):
        storage_with(hosts=["127.0.0.1"]).fetch_input(site.uri("/a"), tmp_path / "copy")


def test_a_server_that_dawdles_is_given_up(storage_with: Make, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(web, "MIN_BYTES_PER_SECOND", 1e12)
    site.pages["/a"] = says(body=b"1234567890")
    with pytest.raises(Transient, match="only 10 bytes arrived"):
        storage_with(hosts=["127.0.0.1"]).fetch_input(site.uri("/a"), tmp_path / "copy")


def test_a_certificate_that_is_not_believed_is_not_tried_again(storage_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    async def get(self: aiohttp.ClientSession, path: str, **words: Any) -> None:
        tries.append(path)
        where: Any = SimpleNamespace(host="media.example.org", port=443, is_ssl=True)
        raise aiohttp.ClientConnectorCertificateError(where, ssl.CertificateError("self-signed certificate"))

    monkeypatch.setattr(aiohttp.ClientSession, "get", get)
    with pytest.raises(BadInput, match="self-signed"):
        storage_with(hosts=["media.example.org"]).stat_input("https://media.example.org/a")
    assert len(tries) == 1


def test_a_server_that_falls_silent_is_given_up(storage_with: Make, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(request: BaseHTTPRequestHandler) -> None:
        says(body=b"12345", Content_Length="10")(request)
        request.wfile.flush()
        over.wait(60)

    over = threading.Event()
    monkeypatch.setattr(web, "READ_SECONDS", 0.2)
    site.pages["/a"] = first_honest(half)
    with pytest.raises(Transient, match="Timeout"):
        storage_with(hosts=["127.0.0.1"]).fetch_input(site.uri("/a"), tmp_path / "copy")
    over.set()


def test_a_server_that_never_comes_to_the_body_is_given_up(storage_with: Make, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_body(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for _ in range(100):
            request.send_header("X-Wait", "a moment")
            request.flush_headers()
            time.sleep(0.05)

    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
    site.pages["/a"] = without_body
    with pytest.raises(Transient, match="no response within"):
        storage_with(hosts=["127.0.0.1"]).stat_input(site.uri("/a"))


def test_a_server_that_is_not_there_may_come_back(storage_with: Make, site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Transient):
        storage_with(hosts=["127.0.0.1"]).stat_input(f"http://127.0.0.1:{port}/a")
