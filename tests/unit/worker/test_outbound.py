"""Requests to customers' addresses, against real servers on loopback."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.site import Site, reply, running_site
from worker.outbound import AddressPolicy, Client, OutboundError, RefusedByServer, TooLarge, UnsafeUrl

HOST = "files.example.com"
MB = 1024 * 1024


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), host=HOST)


@pytest.fixture
def secure_site(certificates: Certificates) -> Iterator[Site]:
    with running_site(tls=certificates.server_context()) as site:
        yield site


def anywhere() -> Client:
    return Client(AddressPolicy.ANY)


def answer_names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """The name server gives these addresses, one for each question in turn; returns what was asked."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_kwargs: object) -> list[object]:
        asked.append(host)
        address = addresses[min(len(asked), len(addresses)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def lead_home(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Connections to public addresses end at loopback; returns where they were meant to go."""
    wanted: list[tuple[str, int]] = []
    connect = socket.socket.connect

    def connect_home(sock: socket.socket, address: tuple[str, int]) -> None:
        wanted.append(address)
        connect(sock, ("127.0.0.1", address[1]))

    monkeypatch.setattr(socket.socket, "connect", connect_home)
    return wanted


def test_post_sends_the_body_and_headers_and_gives_status_and_headers(site: Site) -> None:
    site.serve("/hook?a=1", reply(202, b"thanks", retry_after="7"))
    response = anywhere().post(site.url("/hook?a=1"), headers={"webhook-id": "msg_1"}, body=b"{}", timeout_s=5)
    assert (response.status, response.headers["retry-after"]) == (202, "7")
    method, path, headers, body = site.seen[0]
    assert (method, path, body) == ("POST", "/hook?a=1", b"{}")
    assert headers["webhook-id"] == "msg_1"
    assert headers["host"] == f"127.0.0.1:{site.port}"


def test_post_does_not_follow_a_redirect(site: Site) -> None:
    site.serve("/hook", reply(307, location="/elsewhere"))
    site.serve("/elsewhere", reply(200))
    assert anywhere().post(site.url("/hook"), headers={}, body=b"{}", timeout_s=5).status == 307
    assert [seen[1] for seen in site.seen] == ["/hook"]


def test_a_name_that_changes_its_address_after_the_check_is_still_reached_at_the_checked_one(
    monkeypatch: pytest.MonkeyPatch, secure_site: Site, certificates: Certificates
) -> None:
    secure_site.serve("/hook", reply(200))
    asked = answer_names(monkeypatch, "93.184.216.34", "127.0.0.1")
    wanted = lead_home(monkeypatch)
    client = Client(AddressPolicy.PUBLIC, tls=certificates.client_context())
    url = secure_site.url("/hook", host=HOST, scheme="https")
    assert client.post(url, headers={}, body=b"{}", timeout_s=5).status == 200
    assert asked == [HOST]
    assert wanted == [("93.184.216.34", secure_site.port)]
    assert secure_site.seen[0][2]["host"] == f"{HOST}:{secure_site.port}"


def test_a_certificate_for_another_name_is_refused(secure_site: Site, certificates: Certificates) -> None:
    client = Client(AddressPolicy.ANY, tls=certificates.client_context())
    with pytest.raises(OutboundError, match="certificate"):
        client.post(secure_site.url("/hook", scheme="https"), headers={}, body=b"", timeout_s=5)
    assert secure_site.seen == []


def test_a_certificate_of_an_unknown_authority_is_refused(monkeypatch: pytest.MonkeyPatch, secure_site: Site) -> None:
    answer_names(monkeypatch, "127.0.0.1")
    with pytest.raises(OutboundError, match="certificate"):
        anywhere().post(secure_site.url("/hook", host=HOST, scheme="https"), headers={}, body=b"", timeout_s=5)


def test_a_client_that_would_not_verify_certificates_cannot_be_made() -> None:
    import ssl

    careless = ssl.create_default_context()
    careless.check_hostname = False
    with pytest.raises(ValueError, match="verify"):
        Client(AddressPolicy.PUBLIC, tls=careless)


def test_a_private_address_is_refused_before_anything_is_sent(site: Site) -> None:
    with pytest.raises(UnsafeUrl):
        Client(AddressPolicy.PUBLIC).post(
            site.url("/hook", host="localhost", scheme="https"), headers={}, body=b"", timeout_s=5
        )
    assert site.seen == []


def test_a_receiver_that_drips_its_headers_is_cut_off_at_the_deadline(site: Site) -> None:
    def drip(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(400):
            handler.wfile.write(b"a")
            handler.wfile.flush()
            time.sleep(0.02)

    site.serve("/hook", drip)
    started = time.monotonic()
    with pytest.raises(OutboundError, match="in time"):
        anywhere().post(site.url("/hook"), headers={}, body=b"{}", timeout_s=0.4)
    assert time.monotonic() - started < 2


def test_a_receiver_that_never_answers_is_cut_off_at_the_deadline(site: Site) -> None:
    over = threading.Event()
    site.serve("/hook", lambda _handler, _body: over.wait(20) and None)
    started = time.monotonic()
    try:
        with pytest.raises(OutboundError, match="in time"):
            anywhere().post(site.url("/hook"), headers={}, body=b"{}", timeout_s=0.3)
    finally:
        over.set()
    assert time.monotonic() - started < 2


def test_a_closed_port_is_an_outbound_error_that_may_be_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(OutboundError) as caught:
            anywhere().post(url, headers={}, body=b"", timeout_s=5)
    assert caught.value.retryable


def test_an_answer_that_is_not_http_is_an_outbound_error(site: Site) -> None:
    site.serve("/hook", lambda handler, _body: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"))
    with pytest.raises(OutboundError, match="not HTTP"):
        anywhere().post(site.url("/hook"), headers={}, body=b"", timeout_s=5)


def test_a_second_address_is_tried_when_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    site.serve("/hook", reply(200))
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, site.port)) for ip in ("127.0.0.99", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: both)
    url = site.url("/hook", host="two.example")
    assert anywhere().post(url, headers={}, body=b"", timeout_s=5).status == 200


def test_download_writes_the_file_and_gives_its_size(site: Site, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    site.serve("/a.wav", reply(200, content))
    size = anywhere().download(site.url("/a.wav"), tmp_path / "a", max_bytes=2 * MB, timeout_s=5)
    assert size == len(content)
    assert (tmp_path / "a").read_bytes() == content
    assert site.seen[0][2]["accept-encoding"] == "identity"


def test_download_follows_redirects_and_checks_each_hop(
    monkeypatch: pytest.MonkeyPatch, secure_site: Site, certificates: Certificates, tmp_path: Path
) -> None:
    secure_site.serve("/a", reply(302, location="b"))
    secure_site.serve("/b", reply(302, location=secure_site.url("/c", host="internal.example", scheme="https")))
    secure_site.serve("/c", reply(200, b"secret"))
    asked = answer_names(monkeypatch, "93.184.216.34", "93.184.216.34", "10.0.0.7")
    lead_home(monkeypatch)
    client = Client(AddressPolicy.PUBLIC, tls=certificates.client_context())
    with pytest.raises(UnsafeUrl):
        client.download(secure_site.url("/a", host=HOST, scheme="https"), tmp_path / "a", max_bytes=MB, timeout_s=5)
    assert asked == [HOST, HOST, "internal.example"]
    assert [seen[1] for seen in secure_site.seen] == ["/a", "/b"]


def test_download_does_not_fall_back_from_https_to_http(
    monkeypatch: pytest.MonkeyPatch, secure_site: Site, certificates: Certificates, tmp_path: Path
) -> None:
    secure_site.serve("/a", reply(302, location="http://files.example.com/a"))
    answer_names(monkeypatch, "93.184.216.34")
    lead_home(monkeypatch)
    client = Client(AddressPolicy.PUBLIC, tls=certificates.client_context())
    with pytest.raises(UnsafeUrl, match="https"):
        client.download(secure_site.url("/a", host=HOST, scheme="https"), tmp_path / "a", max_bytes=MB, timeout_s=5)


def test_download_gives_up_after_five_redirects(site: Site, tmp_path: Path) -> None:
    site.serve("/again", reply(302, location="/again"))
    with pytest.raises(OutboundError, match="redirects"):
        anywhere().download(site.url("/again"), tmp_path / "a", max_bytes=MB, timeout_s=5)
    assert len(site.seen) == 6


def test_download_refuses_an_announced_size_before_reading_it(site: Site, tmp_path: Path) -> None:
    site.serve("/big", reply(200, content_length=str(10 * MB)))
    with pytest.raises(TooLarge):
        anywhere().download(site.url("/big"), tmp_path / "a", max_bytes=MB, timeout_s=5)
    assert not (tmp_path / "a").exists()


def test_download_stops_at_the_limit_when_no_size_is_announced(site: Site, tmp_path: Path) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent += handler.wfile.write(b"a" * MB)

    site.serve("/endless", endless)
    with pytest.raises(TooLarge):
        anywhere().download(site.url("/endless"), tmp_path / "a", max_bytes=3 * MB, timeout_s=10)
    assert not (tmp_path / "a").exists()
    assert sent < 64 * MB


def test_download_that_breaks_off_leaves_no_file(site: Site, tmp_path: Path) -> None:
    site.serve("/short", reply(200, b"only this", content_length="1000"))
    with pytest.raises(OutboundError, match="9 of 1000"):
        anywhere().download(site.url("/short"), tmp_path / "a", max_bytes=MB, timeout_s=5)
    assert not (tmp_path / "a").exists()


def test_download_reads_a_chunked_answer_and_notices_a_broken_one(site: Site, tmp_path: Path) -> None:
    def chunked(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nhello\r\n" + (b"0\r\n\r\n" if handler.path == "/whole" else b"9\r\nwor"))

    site.serve("/whole", chunked)
    site.serve("/broken", chunked)
    assert anywhere().download(site.url("/whole"), tmp_path / "whole", max_bytes=MB, timeout_s=5) == 5
    with pytest.raises(OutboundError):
        anywhere().download(site.url("/broken"), tmp_path / "broken", max_bytes=MB, timeout_s=5)
    assert not (tmp_path / "broken").exists()


def test_download_refuses_a_compressed_answer(site: Site, tmp_path: Path) -> None:
    site.serve("/zip", reply(200, b"\x1f\x8b", content_encoding="gzip"))
    with pytest.raises(OutboundError, match="compressed"):
        anywhere().download(site.url("/zip"), tmp_path / "a", max_bytes=MB, timeout_s=5)


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (503, True), (429, True), (204, False)])
def test_download_says_whether_a_refusal_is_worth_another_try(
    site: Site, tmp_path: Path, status: int, retryable: bool
) -> None:
    site.serve("/a", reply(status))
    with pytest.raises(RefusedByServer) as caught:
        anywhere().download(site.url("/a"), tmp_path / "a", max_bytes=MB, timeout_s=5)
    assert caught.value.status == status
    assert caught.value.retryable is retryable


def test_download_that_drips_is_cut_off_at_the_deadline(site: Site, tmp_path: Path) -> None:
    def drip(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(400):
            handler.wfile.write(b"a")
            time.sleep(0.02)

    site.serve("/drip", drip)
    started = time.monotonic()
    with pytest.raises(OutboundError, match="in time"):
        anywhere().download(site.url("/drip"), tmp_path / "a", max_bytes=MB * 2, timeout_s=0.4)
    assert time.monotonic() - started < 2
    assert not (tmp_path / "a").exists()
