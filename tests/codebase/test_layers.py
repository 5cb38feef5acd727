"""Dependencies point down, and each outside library has one place. See docs/architecture.md."""

from __future__ import annotations

from pathlib import Path

import house
import pytest

# Layer -> the layers it may include besides itself. The order is the order of dependency.
ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "memory": {"base"},
    "wire": {"base"},
    "ring": {"base", "memory", "wire"},
    "transport": {"base", "memory"},
    "journal": {"base", "memory", "wire"},
    "monitor": {"base", "memory"},
    "control": {"base", "memory", "wire", "ring"},
}
MIDDLE = set(ALLOWED)
# The link (ring + window + transport, one way) is what the session and the gateway share.
ALLOWED["link"] = MIDDLE
ALLOWED["session"] = MIDDLE | {"link"}
ALLOWED["gateway"] = MIDDLE | {"link"}
ALLOWED["bench"] = MIDDLE | {"link", "session", "gateway"}
ALLOWED["bindings"] = set(ALLOWED)

# Public headers that stand at the top of the include folder.
TOP_HEADERS = {
    **dict.fromkeys(
        (
            "atomic_word",
            "clock",
            "config",
            "error",
            "fault_point",
            "interruption",
            "platform",
            "status",
            "types",
        ),
        "base",
    ),
    **{layer: layer for layer in ("control", "gateway", "journal", "monitor", "session")},
    "handler": "gateway",
    "journal_reader": "journal",
    "order_fate": "wire",
    "recovery": "gateway",
    "journal_marks": "gateway",
    "link": "link",
    "pingpong": "bench",
    "rdma_link": "link",
}


def layer_of(path: Path) -> str:
    """The layer a source or header belongs to, from where it lies."""
    parts = path.relative_to(house.ROOT / "cpp").parts
    if parts[0] == "bindings":
        return "bindings"
    parts = parts[1:] if parts[0] == "src" else parts[2:]
    if parts in {("session", "link.cpp"), ("session", "rdma_link.cpp")}:
        return "link"
    return TOP_HEADERS[path.stem] if len(parts) == 1 else parts[0]


def find_header(source: Path, target: str) -> Path | None:
    """The project's own file behind an #include, or None for a library's."""
    for folder in (source.parent, house.ROOT / "cpp/include", house.ROOT / "cpp/src"):
        if (folder / target).is_file():
            return (folder / target).resolve()
    return None


def faults(source: Path) -> list[str]:
    """What a source includes against the table above."""
    layer = layer_of(source)
    found = []
    for target, _ in house.includes(source):
        header = find_header(source, target)
        if header is None:
            continue
        below = layer_of(header)
        if below != layer and below not in ALLOWED[layer]:
            found.append(f"{house.name(source)} ({layer}) includes {target} ({below})")
    return found


SOURCES = list(house.files("cpp", suffixes=house.CPP_SUFFIXES))


def test_every_public_header_at_the_top_has_a_layer() -> None:
    headers = (house.ROOT / "cpp/include/rdmaorder").glob("*.hpp")
    assert sorted(path.name for path in headers if path.stem not in TOP_HEADERS) == []


def test_every_folder_of_sources_is_a_known_layer() -> None:
    folders = {path.name for path in (house.ROOT / "cpp/src").iterdir() if path.is_dir()}
    folders |= {p.name for p in (house.ROOT / "cpp/include/rdmaorder").iterdir() if p.is_dir()}
    assert folders - set(ALLOWED) == set()
    assert [house.name(p) for p in SOURCES if p.parent == house.ROOT / "cpp/src"] == []


def test_no_file_includes_a_layer_above_its_own() -> None:
    assert [fault for source in SOURCES for fault in faults(source)] == []


def test_an_upward_include_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpp/src/wire").mkdir(parents=True)
    (tmp_path / "cpp/include/rdmaorder").mkdir(parents=True)
    (tmp_path / "cpp/include/rdmaorder/gateway.hpp").touch()
    source = tmp_path / "cpp/src/wire/bad.cpp"
    source.write_text('#include "rdmaorder/gateway.hpp"\n')
    monkeypatch.setattr(house, "ROOT", tmp_path)
    assert faults(source) == [
        "cpp/src/wire/bad.cpp (wire) includes rdmaorder/gateway.hpp (gateway)"
    ]


def test_the_project_includes_its_own_files_with_quotes() -> None:
    wrong = [
        f"{house.name(source)}: <{target}>"
        for source in SOURCES
        for target, bracket in house.includes(source)
        if bracket and target.startswith("rdmaorder/")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("libraries", "homes"),
    [
        (("Python.h", "pybind11/", "numpy/"), ("cpp/bindings/",)),
        (("infiniband/", "rdma/"), ("cpp/src/transport/verbs/", "tests/")),
        (("msgpack",), ("cpp/src/control/", "tests/")),
        (("openssl/",), ("cpp/src/control/", "cpp/src/gateway/", "tests/")),
        (("gtest/", "gmock/"), ("tests/",)),
    ],
    ids=["Python", "verbs", "msgpack", "OpenSSL", "GoogleTest"],
)
def test_an_outside_library_is_included_only_in_its_place(
    libraries: tuple[str, ...], homes: tuple[str, ...]
) -> None:
    strays = [
        f"{house.name(source)}: {target}"
        for source in house.files("cpp", "tests/cpp", "benchmarks", suffixes=house.CPP_SUFFIXES)
        for target, _ in house.includes(source)
        if target.startswith(libraries) and not house.name(source).startswith(homes)
    ]
    assert strays == []


@pytest.mark.parametrize(("one", "other"), [("shm", "verbs"), ("verbs", "shm")])
def test_the_transports_do_not_see_each_other(one: str, other: str) -> None:
    seen = [
        f"{house.name(source)}: {target}"
        for source in house.files(f"cpp/src/transport/{one}", suffixes=house.CPP_SUFFIXES)
        for target, _ in house.includes(source)
        if f"transport/{other}" in target or target.startswith(f"../{other}")
    ]
    assert seen == []
