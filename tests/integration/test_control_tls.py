"""The control server over TCP: TLS that works, TLS that is refused, and links over RDMA."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from handshake_support import (
    ENDPOINT,
    ESTABLISH,
    REMOTE_WINDOW,
    TERMINATE,
    Client,
    Running,
    Start,
    eventually,
    gateways,
    open_descriptors,
)
from tls_support import ESTABLISH_RDMA, Remote, make_certificates

from rdmaorder.errors import ConfigError, HandshakeError, Refused, SystemFailure, TransportError
from rdmaorder.gateway.authenticate import ProofInput, client_proof, gateway_proof
from rdmaorder.gateway.server import HALF_OPEN_MAX

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def start(tmp_path: Path, certificates: Path) -> Iterator[Start]:
    with gateways(tmp_path) as begin:

        def with_tls(**config: Any) -> Running:
            config.setdefault("listen", "rdma://127.0.0.1:0?gid_index=1")
            if config.get("tls") != "off":
                config.setdefault("tls_certificate", str(certificates / "gateway.pem"))
                config.setdefault("tls_key", str(certificates / "gateway.key"))
            return begin(**config)

        yield with_tls


@pytest.fixture
def gateway(start: Start) -> Running:
    return start()


Trust = Callable[..., ssl.SSLContext]


@pytest.fixture
def trust(certificates: Path) -> Trust:
    """A client's context, with the certificate of that name if one is given."""

    def make(name: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        if name is not None:
            context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        return context

    return make


# -- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "in_order"),
    [({}, False), ({"data_in_order": 0}, False), ({"data_in_order": 1}, True)],
)
def test_a_link_is_activated_only_after_established(
    gateway: Running, trust: Trust, said: dict[str, int], in_order: bool
) -> None:
    with Remote(gateway, trust()) as client:
        assert client.negotiate()["type"] == "NegotiationResponse"
        ack = client.ask(ESTABLISH_RDMA | {"next_order_sequence": 9})
        assert (ack["epoch"], ack["not_applied_count"]) == (101, 2)
        assert (ack["window"]["address"], ack["window"]["key"]) == (1 << 47, 0xFFFF_FFFE)
        assert ack["endpoint"] == ENDPOINT | {"qp_number": 77}
        offered = (ENDPOINT, REMOTE_WINDOW, "127.0.0.1", {"gid_index": 1})
        assert ack["data_in_order"] == 1
        assert gateway.core.offered == [offered]
        assert gateway.core.activated == []
        assert gateway.count("established") == 0
        client.send({"type": "Established", "epoch": 101} | said)
        eventually(lambda: gateway.core.activated == [(0, 101, in_order)], "activated")
        assert client.ask(TERMINATE) == TERMINATE | {"last_sequence": 40}
        assert client.is_closed()
    assert gateway.core.detached == [(0, 101, True)]
    assert gateway.count("terminated") == 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "Established", "epoch": 102}, "epoch 102"),
        ({"type": "Established"}, "epoch"),
        ({"type": "Established", "epoch": 101, "data_in_order": 2}, "data_in_order = 2"),
        (TERMINATE, "expected Established"),
        (b"\xff\xff\xff\xff", "frame of"),
    ],
)
def test_anything_but_the_right_established_ends_the_link(
    gateway: Running, trust: Trust, message: Any, words: str
) -> None:
    with Remote(gateway, trust()) as client:
        client.negotiate()
        client.ask(ESTABLISH_RDMA)
        answer = client.ask(message)
        assert (answer["type"], answer["code"]) == ("Terminate", "BadRequest")
        assert (words in answer["text"], answer["last_sequence"]) == (True, 40)
        assert client.is_closed()
    assert gateway.core.detached == [(0, 101, True)]
    assert gateway.core.activated == []


def test_a_strategy_that_never_says_established_is_detached_in_time(
    start: Start, trust: Trust
) -> None:
    gateway = start(handshake_timeout_ms=150)
    with Remote(gateway, trust()) as client:
        client.negotiate()
        client.ask(ESTABLISH_RDMA)
        answer, _ = client.receive()
        assert (answer["type"], "150 ms" in answer["text"]) == ("Terminate", True)
        assert client.is_closed()
    assert gateway.core.detached == [(0, 101, True)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TransportError("no GID for 127.0.0.1"), "BadEndpoint"),
        (HandshakeError("key 0x1234"), "BadWindow"),
        (Refused("blocked", code="SessionBlocked"), "SessionBlocked"),
        (ConfigError("gid_index = 1"), "BadRequest"),
        (OSError(12, "memory"), "Unspecified"),
    ],
)
def test_what_the_core_says_of_an_endpoint_reaches_the_strategy(
    gateway: Running, trust: Trust, error: BaseException, code: str
) -> None:
    gateway.core.refuse_attach = error
    with Remote(gateway, trust()) as client:
        client.negotiate()
        answer = client.ask(ESTABLISH_RDMA)
        assert (answer["type"], answer["code"]) == ("EstablishmentReject", code)
        assert str(error) in answer["text"]
    gateway.core.refuse_attach = None
    with Remote(gateway, trust()) as client:
        client.connect()


def test_a_link_that_cannot_be_activated_is_detached(gateway: Running, trust: Trust) -> None:
    gateway.core.refuse_activate = TransportError("queue pair in error")
    with Remote(gateway, trust()) as client:
        client.connect()
        answer, _ = client.receive()
        assert (answer["type"], answer["code"]) == ("Terminate", "BadEndpoint")
        assert answer["text"] == "queue pair in error"
    assert gateway.core.detached == [(0, 101, True)]


def test_closing_before_established_terminates_the_link(gateway: Running, trust: Trust) -> None:
    with Remote(gateway, trust()) as client:
        client.negotiate()
        client.ask(ESTABLISH_RDMA)
        gateway.close()
        answer, _ = client.receive()
        assert (answer["type"], answer["code"]) == ("Terminate", "GatewayShutdown")
    assert gateway.core.detached == [(0, 101, True)]


def test_a_dead_strategy_frees_its_session(gateway: Running, trust: Trust) -> None:
    with Remote(gateway, trust()) as client:
        client.connect()
    eventually(lambda: gateway.core.detached == [(0, 101, True)], "detach")
    with Remote(gateway, trust()) as client:
        client.connect()


def test_shm_and_rdma_are_served_at_once_and_share_sessions(
    start: Start, trust: Trust, tmp_path: Path
) -> None:
    path = str(tmp_path / "both.sock")
    gateway = start(listen=["shm:" + path, "rdma://127.0.0.1:0", "rdma://[::1]:0"])
    assert gateway.server.urls[0] == "shm:" + path
    assert gateway.server.urls[2].startswith("rdma://[::1]:")
    with (
        Client(path) as near,
        Remote(gateway, trust(), 1) as far,
        Remote(gateway, trust(), 2) as six,
    ):
        near.connect("alpha")
        answer = far.negotiate(session="alpha")
        assert (answer["code"], "pid" in answer["text"]) == ("DuplicateId", True)
        six.connect("beta")
        eventually(lambda: gateway.count("established") == 2, "both established")
        gateway.close()
        assert six.receive()[0]["code"] == "GatewayShutdown"
        assert near.receive()[0]["code"] == "GatewayShutdown"
    assert not Path(path).exists()


def test_each_kind_of_socket_takes_its_own_transport_only(gateway: Running, trust: Trust) -> None:
    with Remote(gateway, trust()) as client:
        answer = client.negotiate(transport="shm")
        assert (answer["code"], "'rdma' only" in answer["text"]) == ("BadRequest", True)


# -- TLS ---------------------------------------------------------------------------------------


def test_a_client_without_tls_is_told_so_in_plain_words(gateway: Running) -> None:
    with Remote(gateway, None) as client:
        answer = client.negotiate()
        assert (answer["type"], answer["code"]) == ("NegotiationReject", "Credentials")
        assert "TLS only" in answer["text"]
        assert client.is_closed()
    assert gateway.core.asked == []


def test_a_tls_client_on_a_gateway_without_tls_gets_no_link(start: Start, trust: Trust) -> None:
    gateway = start(tls="off")
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        Remote(gateway, trust())
    with Remote(gateway, None) as client:
        client.connect()


def test_tls_that_is_off_is_warned_of(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start(tls="off")
    assert "TLS IS OFF" in caplog.text
    assert "may open a session" in caplog.text


def test_a_gateway_that_demands_proof_of_everybody_warns_of_nothing(
    start: Start, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(tls_client_ca=str(certificates / "ca.pem"))
    start(session_keys={"alpha": KEY})
    assert [each for each in caplog.records if each.name.startswith("rdmaorder")] == []


def test_a_private_key_that_others_may_read_is_warned_of(
    start: Start, certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "copy.key"
    key.write_bytes((certificates / "gateway.key").read_bytes())
    key.chmod(0o644)
    start(tls_key=str(key), session_keys={"alpha": KEY})
    assert f"{key} is the gateway's private key and others may read it" in caplog.text


def test_tls_1_2_is_refused(gateway: Running, trust: Trust) -> None:
    context = trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        Remote(gateway, context)
    eventually(lambda: gateway.count("tls_failed") == 1, "counted")


@pytest.mark.parametrize("name", [None, "stranger"])
def test_mutual_tls_lets_nobody_in_without_a_certificate_of_its_ca(
    start: Start, certificates: Path, trust: Trust, name: str | None
) -> None:
    gateway = start(tls_client_ca=str(certificates / "ca.pem"))
    with Remote(gateway, trust(name)) as client, pytest.raises(ssl.SSLError):
        client.negotiate()
    eventually(lambda: gateway.count("tls_failed") == 1, "counted")
    assert gateway.core.asked == []
    with Remote(gateway, trust("strategy")) as client:
        client.connect()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x03\xff\xff" + b"\x01" * 70_000,
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    ],
    ids=["no hello", "a record too long", "a hello without end"],
)
def test_tls_garbage_is_refused_and_keeps_nobody_out(
    start: Start, trust: Trust, garbage: bytes
) -> None:
    gateway = start(handshake_timeout_ms=200)
    with Remote(gateway, None) as client, suppress(ConnectionError):
        client.send(garbage)
        while client.socket.recv(4096):
            pass
    eventually(lambda: gateway.count("tls_failed") + gateway.count("timed_out") == 1, "counted")
    with Remote(gateway, trust()) as client:
        client.connect()
    assert gateway.count("failed") == 0


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_a_half_tls_handshake_ends_in_time(start: Start, sent: bytes) -> None:
    gateway = start(handshake_timeout_ms=80)
    before = open_descriptors()
    with Remote(gateway, None) as client:
        client.send(sent)
        assert client.socket.recv(1) is not None
        eventually(lambda: gateway.count("timed_out") == 1, "timed out")
    eventually(lambda: open_descriptors() == before, "socket closed")


def test_a_client_hello_that_trickles_gains_no_time(start: Start, trust: Trust) -> None:
    gateway = start(handshake_timeout_ms=150)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trust().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    left = bytearray(hello)
    with Remote(gateway, None) as client, suppress(ConnectionError):
        while left:
            client.socket.sendall(bytes([left.pop(0)]))
            time.sleep(0.01)
    assert left, "cut off long before the last byte"
    eventually(lambda: gateway.count("timed_out") == 1, "counted")


def test_silent_tcp_connections_in_every_place_do_not_keep_a_strategy_out(
    start: Start, trust: Trust
) -> None:
    gateway = start(handshake_timeout_ms=600_000)
    silent = [Remote(gateway, None) for _ in range(HALF_OPEN_MAX)]
    try:
        eventually(lambda: gateway.count("connections") == HALF_OPEN_MAX, "all places taken")
        with Remote(gateway, trust()) as client:
            client.connect()
        assert gateway.count("evicted") == 1
    finally:
        for each in silent:
            each.socket.close()


def test_closing_ends_a_tls_handshake_under_way(gateway: Running) -> None:
    with Remote(gateway, None) as client:
        client.send(b"\x16")
        eventually(lambda: gateway.count("connections") == 1, "accepted")
        gateway.close()
        assert client.socket.recv(4096) is not None
    assert gateway.count("refused.Draining") == 1


def test_a_hundred_tls_links_later_no_descriptor_is_left(gateway: Running, trust: Trust) -> None:
    context = trust()
    before = open_descriptors()
    for _ in range(100):
        with Remote(gateway, context) as client:
            client.connect()
            assert client.ask(TERMINATE)["type"] == "Terminate"
    eventually(lambda: len(gateway.core.detached) == 100, "every detach")
    eventually(lambda: open_descriptors() == before, "every descriptor closed")


# -- settings ----------------------------------------------------------------------------------


def test_a_gateway_without_a_certificate_does_not_start(start: Start, certificates: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls_certificate and tls_key are not set.*off"):
        start(tls_certificate=None, tls_key=None)
    with pytest.raises(ConfigError, match=r"tls_certificate = .*absent\.pem.*cannot be read"):
        start(tls_certificate=str(certificates / "absent.pem"))
    with pytest.raises(ConfigError, match=r"tls_key = .*mismatch"):
        start(tls_key=str(certificates / "strategy.key"))
    with pytest.raises(ConfigError, match=r"tls_client_ca = .*cannot be used"):
        start(tls_client_ca=str(certificates / "ca.key"))


def test_a_port_that_is_taken_or_foreign_is_named_and_nothing_is_left(
    start: Start, gateway: Running, tmp_path: Path
) -> None:
    path = tmp_path / "left.sock"
    taken = gateway.server.urls[0]
    with pytest.raises(SystemFailure, match=f"listen {taken}.*in use.*port"):
        start(listen=["shm:" + str(path), taken])
    assert not path.exists()
    with pytest.raises(SystemFailure, match=r"192\.0\.2\.1"):
        start(listen="rdma://192.0.2.1:1")
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid"):
        start(listen="rdma://no-such-host.invalid:1")


# -- session keys ------------------------------------------------------------------------------


def proof(client: Client, nonce: bytes, key: bytes = KEY, session: str = "alpha") -> ProofInput:
    binding = b""
    if isinstance(client.socket, ssl.SSLSocket):
        binding = client.socket.get_channel_binding("tls-unique") or b""
        assert binding
    return ProofInput(session, nonce, bytes(32), binding)


def authenticate(over: ProofInput, key: bytes = KEY) -> dict[str, Any]:
    return {
        "type": "Authenticate",
        "client_nonce": over.client_nonce,
        "mac": client_proof(key, over),
    }


@pytest.fixture(params=["tls", "plain tcp", "shm"])
def keyed(request: pytest.FixtureRequest, start: Start, trust: Trust, tmp_path: Path) -> Any:
    """A gateway where alpha and beta have keys, and a function that connects to it."""
    keys = {"alpha": KEY, "beta": bytes(32)}
    path = str(tmp_path / "keyed.sock")
    if request.param == "shm":
        gateway = start(listen="shm:" + path, session_keys=keys)
        return gateway, lambda: Client(path)
    if request.param == "tls":
        gateway = start(session_keys=keys)
        return gateway, lambda: Remote(gateway, trust())
    gateway = start(tls="off", session_keys=keys)
    return gateway, lambda: Remote(gateway, None)


def test_a_right_proof_is_answered_with_the_gateways_own(keyed: Any) -> None:
    gateway, connect = keyed
    with connect() as client:
        challenge = client.negotiate()
        assert challenge["type"] == "Challenge"
        assert gateway.core.asked == []
        over = proof(client, challenge["nonce"])
        answer = client.ask(authenticate(over))
        assert answer["type"] == "NegotiationResponse"
        assert answer["mac"] == gateway_proof(KEY, over)


def test_wrong_proofs_are_refused_before_the_core_is_asked(
    keyed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, connect = keyed
    for key, session in ((bytes(32), "alpha"), (KEY, "beta")):
        with connect() as client:
            over = proof(client, client.negotiate()["nonce"], session=session)
            answer = client.ask(authenticate(over, key))
            assert (answer["type"], answer["code"]) == ("NegotiationReject", "Credentials")
            assert client.is_closed()
    for message in (ESTABLISH, {"type": "Authenticate", "client_nonce": bytes(32)}, b"\xff" * 9):
        with connect() as client:
            client.negotiate()
            assert client.ask(message)["code"] == "BadRequest"
    assert gateway.core.asked == []
    assert KEY.hex() not in caplog.text
    assert repr(KEY) not in caplog.text


def test_a_recorded_authentication_is_worth_nothing_on_another_connection(keyed: Any) -> None:
    _, connect = keyed
    with connect() as client:
        recorded = authenticate(proof(client, client.negotiate()["nonce"]))
        assert client.ask(recorded)["type"] == "NegotiationResponse"
    with connect() as client:
        first = client.negotiate()["nonce"]
        assert client.ask(recorded)["code"] == "Credentials"
    with connect() as client:
        assert client.negotiate()["nonce"] != first


def test_the_gateways_own_proof_is_no_proof_of_a_strategy(keyed: Any) -> None:
    _, connect = keyed
    with connect() as client:
        over = proof(client, client.negotiate()["nonce"])
        reflected = authenticate(over) | {"mac": gateway_proof(KEY, over)}
        assert client.ask(reflected)["code"] == "Credentials"


def test_a_proof_made_for_another_tls_connection_is_refused(start: Start, trust: Trust) -> None:
    gateway = start(session_keys={"alpha": KEY})
    with Remote(gateway, trust()) as victim, Remote(gateway, trust()) as relay:
        nonce = relay.negotiate()["nonce"]  # handed on to the victim as the relay's own
        answer = authenticate(proof(victim, nonce))
        assert relay.ask(answer)["code"] == "Credentials"


def test_sessions_without_a_key_are_unknown_beside_those_with_one(keyed: Any) -> None:
    _, connect = keyed
    with connect() as client:
        assert client.negotiate(session="gamma")["code"] == "UnknownSession"
