"""gw.toml: what is read, what is refused, and that a refusal names everything needed to mend it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rdmaorder import Gateway, cli
from rdmaorder.errors import ConfigError
from rdmaorder.gateway.config import GatewayConfig, parse_shm_url

FULL = """
[gateway]
listen = ["shm:///run/gw.sock", "rdma://[::1]:9000?device=rxe0&gid_index=1&mtu=1024"]
tls = "on" # "off" excludes tls_client_ca
tls_certificate = "/etc/gw/cert.pem"
tls_key = "/etc/gw/key.pem"
tls_client_ca = "/etc/gw/ca.pem"
journal = "/var/lib/gw"
sync = "batch"
sync_interval_ms = 5
segment_mib = 128
handler = "venue"
counters = "/dev/shm/gw.counters"
sessions = ["alpha", "beta"]
instruments = [7, "100-200", "150-250", 251]
max_quantity = 1_000_000
cancel_reserve = 8
order_slots = 512
report_slots = 2048
max_sessions = 4
idle = "yield"
cpu = 1
heartbeat_us = 500
handshake_timeout_ms = 250
allowed_uids = [1000, 0, 1000]
huge_pages = "require"
venue_max_orders = 4096
max_orders_per_s = 1000
orders_burst = 10
throttle_disconnect = 500
cancel_on = "both"
cancel_grace_ms = 0

[sessions.alpha]
cancel_on = "logout"
key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "gw.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(tmp_path: Path, text: str) -> str:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        GatewayConfig.from_file(path)
    message = str(caught.value)
    assert message.startswith(path + ": ")
    return message


def test_a_file_with_every_key_is_read(tmp_path: Path) -> None:
    config = GatewayConfig.from_file(written(tmp_path, FULL))
    assert config.listen_path == "/run/gw.sock"
    remote = config.addresses[1]
    assert (remote.host, remote.port) == ("::1", 9000)
    assert remote.options == {"device": "rxe0", "gid_index": 1, "mtu": 1024}
    assert config.key_of("alpha") == bytes(range(32))
    assert config.key_of("beta") is None
    assert config.cancel_of("alpha") == ("logout", 0)
    assert config.cancel_of("beta") == ("both", 0)
    assert config.sessions == ("alpha", "beta")
    assert config.instruments == ((7, 7), (100, 251))
    assert config.allowed_uids == (0, 1000)
    untouched = [
        field.name
        for field in dataclasses.fields(config)
        if getattr(config, field.name) == field.default
    ]
    assert untouched == ["tls"], "FULL gives every key a value other than its default"


@pytest.mark.parametrize("text", ["", "[gateway]\n", "# nothing\n"])
def test_an_empty_file_gives_the_defaults(tmp_path: Path, text: str) -> None:
    assert GatewayConfig.from_file(written(tmp_path, text)) == GatewayConfig()


def test_a_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GatewayConfig().cpu = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("order_slot = 64", ("order_slot = 64", "unknown", "did you mean order_slots?")),
        ("colour = 'blue'", ("colour = 'blue'", "unknown", "venue_max_orders")),
        ("order_slots = 100", ("order_slots = 100", "power of two", "64 or 128")),
        ("order_slots = 4", ("order_slots = 4", "8 to 1048576")),
        ("order_slots = '64'", ("order_slots = '64'", "not an integer")),
        ("cpu = true", ("cpu = True", "not an integer")),
        ("cpu = -1", ("cpu = -1", "out of range")),
        ("sync = 'always'", ("sync = 'always'", "'none', 'interval', 'batch'")),
        ("sync = 3", ("sync = 3", "'none'")),
        ("sync = []", ("sync = []", "'none'")),
        ("idle = 'busy'", ("idle = 'busy'", "'spin', 'yield', 'backoff'")),
        ("handler = ''", ("handler = ''", "write it in quotes")),
        ("listen = '/run/gw.sock'", ("listen = '/run/gw.sock'", "shm:///absolute/path.sock")),
        ("listen = 'tcp://host:1'", ("listen", "shm:///absolute/path.sock")),
        ("listen = []", ("listen = []", "shm:///run/gw.sock")),
        ("listen = 3", ("listen = 3", "shm:///run/gw.sock")),
        ("listen = ['shm:/a', 'shm:/a']", ("twice",)),
        ("listen = ['shm:/a', 'rdma://h']", ("'rdma://h'", "no port")),
        ("listen = 'rdma:h:1'", ("'//'",)),
        ("listen = 'rdma://:1'", ("names no host",)),
        ("listen = 'rdma://a b:1'", ("names no host",)),
        ("listen = 'rdma://h:65536'", ("0 to 65535",)),
        ("listen = 'rdma://h:+1'", ("0 to 65535",)),
        ("listen = 'rdma://::1:9000'", ("brackets",)),
        ("listen = 'rdma://[10.0.0.1]:9000'", ("no IPv6 address",)),
        ("listen = 'rdma://[::1:9000'", ("no IPv6 address",)),
        ("listen = 'rdma://h:1?colour=blue'", ("'colour'", "gid_index")),
        ("listen = 'rdma://h:1?gid_index'", ("'gid_index'", "key=value")),
        ("listen = 'rdma://h:1?gid_index=-1'", ("gid_index = '-1'", "0 to 255")),
        ("listen = 'rdma://h:1?retry_count=7'", ("retry_count = '7'", "1 to 6")),
        ("listen = 'rdma://h:1?mtu=1000'", ("mtu = '1000'", "256, 512, 1024, 2048 or 4096")),
        ("listen = 'rdma://h:1?device='", ("device", "without a value")),
        ("listen = 'rdma://h:1?port=1&port=1'", ("port twice",)),
        ("listen = 'rdma://h:1?tls=off'", ("option tls", "tls_certificate")),
        ("tls = 'maybe'", ("tls = 'maybe'", "'on', 'off'")),
        ("tls_key = 'a'", ("tls_certificate and tls_key", "both or none")),
        ("tls = 'off'\ntls_client_ca = 'a'", ("tls_client_ca = 'a'", "take one of them out")),
        ("session_keys = 'a'", ("session_keys", "[sessions.NAME]")),
        ("listen = 'shm://'", ("listen = 'shm://'", "no socket file")),
        ("listen = 'shm:/a?b'", ("listen", "'?'")),
        (f"listen = 'shm:/{'a' * 110}'", ("listen", "107")),
        ("sessions = 'alpha'", ("sessions = 'alpha'", "not a list")),
        ("sessions = []", ("sessions = []", "leave the key out for any session")),
        ("sessions = ['a b']", ("'a b'", "64 characters")),
        ("sessions = ['a', 'a']", ("twice",)),
        ("instruments = []", ("instruments = []", "every instrument")),
        ("instruments = ['9-3']", ("'9-3'", "lower one first")),
        ("instruments = ['1-2-3']", ("'1-2-3'", '"100-200"')),
        ("instruments = [4294967296]", ("4294967296", "4294967295")),
        ("instruments = [true]", ("True",)),
        ("instruments = [-1]", ("-1",)),
        ("max_quantity = 0", ("max_quantity = 0", "1 to 9223372036854775807")),
        ("allowed_uids = [-1]", ("allowed_uids", "out of range")),
        ("heartbeat_us = 1", ("heartbeat_us = 1", "10 to 1000000")),
        ("cancel_reserve = 64\norder_slots = 64", ("cancel_reserve = 64", "order_slots = 64")),
        ("max_sessions = 1\nsessions = ['a', 'b']", ("max_sessions = 1", "raise it")),
        ("orders_burst = 3", ("orders_burst = 3", "limits nothing without max_orders_per_s")),
        (
            "throttle_disconnect = 5",
            ("throttle_disconnect = 5", "limits nothing without max_orders_per_s"),
        ),
        (
            "sessions = ['alpha']\n[sessions.alhpa]\ncancel_on = 'both'",
            ("[sessions.alhpa]: is not in sessions = ('alpha',); add it",),
        ),
        (
            f"[sessions.a]\nkey = '{32 * '5e'}'\n[sessions.b]\ncancel_on = 'both'",
            ("[sessions.b]: has no key", "sessions = [...]"),
        ),
        ("[sessions.'a b']\ncancel_on = 'both'", ("[sessions]: holds 'a b'", "64 characters")),
        (
            "[sessions.b]\ncancel_on = 'gone'",
            ("[sessions.b] cancel_on = 'gone': is none of the choices; use 'never', 'logout'",),
        ),
        (
            "[sessions.b]\ncancel_grace_ms = -1",
            ("[sessions.b] cancel_grace_ms = -1: is out of range; use 0 to 3600000",),
        ),
    ],
)
def test_a_bad_line_is_named_with_its_remedy(
    tmp_path: Path, line: str, facts: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, f"[gateway]\n{line}\n")
    assert [fact for fact in facts if fact not in message] == []


SECRET = "5ec7e7" * 5

BAD_KEYS = {
    "too short": (f'[sessions.a]\nkey = "{SECRET}"', "15 bytes"),
    "no hex": (f'[sessions.a]\nkey = "{SECRET}x"', "not written in hex"),
    "a number": ("[sessions.a]\nkey = 5", "[sessions.a] key: is not a string; write it in quotes"),
    "no key": ("[sessions.a]\n", "something else than key"),
    "another setting": (f'[sessions.a]\nkye = "{SECRET}"', "something else than key"),
    "no name": (f'[sessions]\nkey = "{SECRET}"', "something else than key"),
    "a dotted name": (f'[sessions.a.b]\nkey = "{SECRET}"', 'sessions."a.b"'),
    "a bad name": (f'[sessions."a b"]\nkey = "{SECRET * 3}"', "'a b'"),
    "a misspelt table": (f'[session.a]\nkey = "{SECRET}"', "did you mean sessions?"),
    "a stranger": (
        f'[gateway]\nsessions = ["b"]\n[sessions.a]\nkey = "{SECRET * 3}"',
        "not in sessions",
    ),
    "among the settings": (f'[gateway]\nsession_key = "{SECRET}"', "unknown key"),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_a_bad_session_key_is_refused_and_never_repeated(tmp_path: Path, kind: str) -> None:
    text, words = BAD_KEYS[kind]
    message = refusal(tmp_path, text + "\n")
    assert words in message
    assert SECRET not in message


def test_keys_show_nowhere_and_name_the_sessions_there_are(tmp_path: Path) -> None:
    config = GatewayConfig(session_keys={"a": SECRET * 3})
    assert SECRET not in repr(config)
    assert repr(bytes.fromhex(SECRET * 3)) not in repr(config)
    assert config.known_sessions == {"a"}
    assert config.all_keyed
    assert not GatewayConfig(sessions=("a", "b"), session_keys={"a": SECRET * 3}).all_keyed
    assert GatewayConfig().known_sessions is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"sessions": ["alpha"], "session_cancel": {"beta": ("both", 0)}},
            "[sessions.beta]: is not",
        ),
        ({"session_cancel": {"a b": ("both", 0)}}, "holds 'a b'; a name is 1 to 64 characters"),
        ({"session_cancel": {7: ("both", 0)}}, "holds 7; a name is 1 to 64 characters"),
    ],
)
def test_cancels_of_a_session_that_cannot_be_are_refused(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        GatewayConfig(**settings)
    assert told in str(raised.value)


def test_cancels_of_one_session_do_not_keep_others_out() -> None:
    config = GatewayConfig(session_cancel={"alpha": ("both", 0)})
    assert config.known_sessions is None
    assert config.cancel_of("beta") == ("never", 1000)


def test_a_file_of_keys_that_others_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(written(tmp_path, FULL))
    path.chmod(0o640)
    GatewayConfig.from_file(str(path))
    assert "chmod 600" in caplog.text
    caplog.clear()
    path.chmod(0o600)
    GatewayConfig.from_file(str(path))
    assert caplog.text == ""


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    assert "did you mean gateway?" in refusal(tmp_path, "[gatway]\ncpu = 1\n")


def test_a_gateway_that_is_no_table_is_refused(tmp_path: Path) -> None:
    assert "is not a table" in refusal(tmp_path, "gateway = 3\n")


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "[gateway]\ncpu = = 1\n")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gw.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        GatewayConfig.from_file(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpu = " + "9" * 5000, "is not TOML: Exceeds the limit"),
        ("cpu = 0x" + "f" * 5000, "[gateway] cpu = (a number of too many digits): is out of range"),
        ("cpuu = 0x" + "f" * 5000, "cpuu = (a number of too many digits): unknown key"),
        ("cpu = " + "[" * 5000 + "]" * 5000, "is not TOML: nested too deeply"),
    ],
)
def test_toml_that_python_cannot_hold_or_show_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in refusal(tmp_path, "[gateway]\n" + text + "\n")


@pytest.mark.parametrize("key", ["journal", "counters", "handler", "tls_key"])
def test_a_nul_is_in_no_name(tmp_path: Path, key: str) -> None:
    """The system would take what stands before it for the whole name."""
    refused = refusal(tmp_path, f'[gateway]\n{key} = "a\\u0000b"\n')
    assert f"[gateway] {key} = 'a\\x00b': holds a NUL" in refused


def test_a_file_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read .*--config"):
        GatewayConfig.from_file(str(tmp_path / "absent.toml"))


def test_the_command_line_wins_over_the_file_and_none_leaves_it(tmp_path: Path) -> None:
    config = GatewayConfig.from_file(written(tmp_path, FULL)).with_overrides(cpu=0, handler=None)
    assert (config.cpu, config.handler, config.order_slots) == (0, "venue", 512)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cpu", "-1"], "[gateway] cpu = -1: is out of range"),
        (
            ["--listen", ""],
            "[gateway] listen = ['']: holds an empty address; write \"shm:///run/gw",
        ),
        (["--handler", ""], "[gateway] handler = '': "),
    ],
)
def test_a_bad_option_names_the_command_line(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert cli.main(["gateway", *words]) == 2
    assert capsys.readouterr().err.startswith(f"rdmaorder: error: command line: {told}")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"listen": 5}, "[gateway] listen = 5: is no URL"),
        ({"jurnal": "j"}, "jurnal = 'j': unknown key in [gateway]; did you mean journal?"),
    ],
)
def test_a_bad_setting_of_a_gateway_names_no_command_line(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        Gateway(**settings)
    assert str(raised.value).startswith(told)


def test_an_override_is_checked_against_the_rest_of_the_file() -> None:
    with pytest.raises(ConfigError, match="cancel_reserve = 16"):
        GatewayConfig(order_slots=64).with_overrides(order_slots=8)


def test_overriding_one_key_keeps_checked_lists_as_they_are() -> None:
    config = GatewayConfig(instruments=[1, "5-9"])  # type: ignore[arg-type]
    assert config.with_overrides(cpu=2).instruments == ((1, 1), (5, 9))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("shm:///run/gw.sock", "/run/gw.sock"),
        ("shm:/run/gw.sock", "/run/gw.sock"),
        ("shm:gw.sock", "gw.sock"),
        ("shm://gw.sock", "gw.sock"),
        (f"shm:{'a' * 107}", "a" * 107),
    ],
)
def test_an_address_names_its_socket_file(url: str, path: str) -> None:
    assert parse_shm_url(url) == path


def test_every_key_says_what_it_is_for() -> None:
    source = Path(str(GatewayConfig.from_file.__func__.__code__.co_filename))  # type: ignore[attr-defined]
    lines = source.read_text(encoding="utf-8").splitlines()
    bare: list[Any] = [
        field.name
        for field in dataclasses.fields(GatewayConfig)
        for number, line in enumerate(lines)
        if line.startswith(f"    {field.name}: ") and not lines[number - 1].startswith("    #: ")
    ]
    assert bare == []
