"""What cannot be connected: each an error that names the thing and the remedy."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_support import (
    LENIENT,
    PATIENCE_S,
    ROOT,
    Connect,
    StartGateway,
    order,
    strategy_url,
    take,
)
from wire import Wire

import rdmaorder as ro

STRATEGY = "import sys, rdmaorder as ro; ro.connect(sys.argv[1], 'alpha', report_slots=4096)"


def run_strategy(url: str, *wrapper: str, memlock: int | None = None) -> str:
    """What a strategy's process says on standard error; it must fail."""

    def limit() -> None:
        if memlock is not None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))

    done = subprocess.run(
        [*wrapper, sys.executable, "-c", STRATEGY, url],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=6 * PATIENCE_S,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode != 0, "it connected"
    return done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("device=mlx5_7", r"no RDMA device 'mlx5_7'; this machine has .*{device}"),
        ("device={device}&port=3", r"{device} has no port 3"),
        ("gid_index=200", r"index 200.*leave gid_index out"),
        ("device={device}&gid_index=200", r"{device} does not have, .*, a usable GID .*index 200"),
        ("depth=65536", r"beyond the \d+ that {device} port 1 takes; use a smaller one"),
        ("depth=8&signal_interval=5", r"signal_interval = 5 is outside 1 \.\. 4"),
        ("gid_index=0", r"different IP versions; connect through an address of the other version"),
    ],
)
def test_a_device_port_gid_or_setting_that_is_not_there_is_named(
    start_gateway: StartGateway, connect: Connect, wire: Wire, options: str, told: str
) -> None:
    gateway = start_gateway()
    options, told = (text.replace("{device}", wire.far.device) for text in (options, told))
    with pytest.raises((ro.TransportError, ro.ConfigError, ro.Refused), match=told):
        connect(f"{gateway.url}?tls=off&{options}")
    session = connect(gateway)  # the session is free, and the gateway well
    order(session, 1)
    take(session, 1)


def test_an_address_of_no_device_is_refused_with_the_list_of_those(
    start_gateway: StartGateway, connect: Connect, wire: Wire
) -> None:
    gateway = start_gateway(listen=f"rdma://127.0.0.1:0?device={wire.near.device}")
    told = (
        rf"no RDMA device has .* the address 127\.0\.0\.1; here: .*{wire.near.device} port 1 active"
    )
    with pytest.raises(ro.TransportError, match=told):
        connect(gateway)
    # With devices named on both ends the control connection may go any way.
    session = connect(f"{gateway.url}?tls=off&device={wire.far.device}")
    order(session, 1)
    take(session, 1)


def test_a_gateway_whose_address_has_no_device_tells_the_strategy(
    start_gateway: StartGateway, connect: Connect, wire: Wire
) -> None:
    gateway = start_gateway(listen="rdma://127.0.0.1:0")
    with pytest.raises(ro.Refused, match=r"BadEndpoint: no RDMA device has .* 127\.0\.0\.1"):
        connect(f"{gateway.url}?tls=off&device={wire.far.device}")


def test_mtus_that_do_not_go_together_are_told_on_either_side(
    start_gateway: StartGateway, connect: Connect, wire: Wire
) -> None:
    small = start_gateway(listen=f"{wire.listen}?mtu=512")
    told = r"mtu_bytes = 1024 was asked for, the peer takes 512; raise the MTU of the peer's"
    with pytest.raises(ro.TransportError, match=told):
        connect(f"{small.url}?tls=off&mtu=1024")
    large = start_gateway(listen=f"{wire.listen}?mtu=1024")
    told = r"BadEndpoint: mtu_bytes = 1024 was asked for, the peer takes 512"
    with pytest.raises(ro.Refused, match=told):
        connect(f"{large.url}?tls=off&mtu=512")


def test_too_little_locked_memory_names_the_limit_and_the_remedy(
    start_gateway: StartGateway, soft: Wire
) -> None:
    url = strategy_url(start_gateway().url)
    # Root may lock what it likes unless it gives that up.
    drop = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    said = run_strategy(url, *drop, memlock=64 << 10)
    assert "register the window of" in said, said
    assert "ulimit -l, all regions of the process together) is 65536 bytes" in said
    assert "LimitMEMLOCK=infinity" in said


def test_a_machine_without_libibverbs_says_what_to_install(
    start_gateway: StartGateway, soft: Wire
) -> None:
    url = strategy_url(start_gateway().url)
    library = next(Path("/usr/lib").glob("*/libibverbs.so.1")).resolve()
    hide = f'mount --bind /dev/null {library} && exec "$@"'
    said = run_strategy(url, "unshare", "--mount", "sh", "-c", hide, "sh")
    assert "rdma:// needs libibverbs.so.1, which cannot be opened" in said, said
    assert "apt-get install libibverbs1 ibverbs-providers" in said


def test_devices_that_the_library_leaves_out_are_named_with_the_remedy(
    start_gateway: StartGateway, soft: Wire
) -> None:
    url = strategy_url(start_gateway().url)
    # As in a container: the kernel's /sys is there, the device files are not.
    hide = 'mount -t tmpfs none /dev/infiniband && exec "$@"'
    said = run_strategy(url, "unshare", "--mount", "sh", "-c", hide, "sh")
    assert f"the kernel has the RDMA devices {soft.near.device}, {soft.far.device}, " in said, said
    assert "a container --device=/dev/infiniband" in said


def test_a_host_nobody_answers_for_costs_the_time_given(wire: Wire) -> None:
    host = wire.near.address.rsplit(".", 1)[0] + ".199"
    told = rf"{host}:9000: .*; .*check the address"
    with pytest.raises((ro.ConnectTimeout, ro.SystemFailure), match=told):
        ro.connect(f"rdma://{host}:9000?tls=off", "alpha", **LENIENT | {"connect_timeout_s": 1})


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("fe80::1", r"a link-local address needs its interface: \[fe80::1%eth0\]"),
        ("fe80::1%nope", r"host fe80::1%nope: .*; check the name or give an IP address"),
    ],
)
def test_a_link_local_address_without_its_interface_is_refused_at_once(
    soft: Wire, host: str, told: str
) -> None:
    with pytest.raises(ro.SystemFailure, match=told):
        ro.connect(f"rdma://[{host}]:9000?tls=off", "alpha", connect_timeout_s=2)
