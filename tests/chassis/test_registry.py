from __future__ import annotations

from pathlib import Path

import pytest

from chassis.registry import Registry, RegistryError

GROUP = "kserve_rag.test_members"


@pytest.fixture(autouse=True)
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with one member that works and one whose library is missing."""
    info = tmp_path / "registry_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registry-example\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nplain = registry_example:MEMBER\nheavy = registry_example_heavy:MEMBER [heavy]\n"
    )
    (tmp_path / "registry_example.py").write_text("MEMBER = object()\n")
    (tmp_path / "registry_example_heavy.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_member_is_found_by_its_entry_point() -> None:
    registry: Registry[object] = Registry(GROUP, "member")
    assert registry.names() == ["heavy", "plain"]
    assert registry.get("plain") is registry.get("plain")


def test_an_unknown_name_lists_the_known_ones() -> None:
    registry: Registry[object] = Registry(GROUP, "member")
    with pytest.raises(RegistryError, match=r"there is no member 'plan': choose one of heavy, plain"):
        registry.get("plan")


def test_a_missing_library_names_the_extra() -> None:
    registry: Registry[object] = Registry(GROUP, "member")
    with pytest.raises(RegistryError, match=r"a_library_that_is_not_there.*pip install 'kserve-rag\[heavy\]'"):
        registry.get("heavy")


def test_a_group_without_members_says_so() -> None:
    registry: Registry[object] = Registry("kserve_rag.no_such_group", "store")
    with pytest.raises(RegistryError, match="none is installed"):
        registry.check("chroma")
