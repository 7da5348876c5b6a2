"""Every requirement has a test that names it, or is openly pending; never both, and none is made up.

A test names what it exercises end to end: `@pytest.mark.requirement("FR-001")`. The files are read, not run,
so that the answer does not depend on which tests were selected.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((DOCS / name).read_text(encoding="utf-8"))


def named_in(source: str, file: str = "a test") -> Iterator[str]:
    """The ids in all `pytest.mark.requirement(...)` of a file."""
    for node in ast.walk(ast.parse(source, file)):
        match node:
            case ast.Call(func=ast.Attribute(attr="requirement", value=ast.Attribute(attr="mark"))):
                ids = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                texts = [value for value in ids if isinstance(value, str)]
                written_out = texts and len(texts) == len(node.args) and not node.keywords
                assert written_out, f"{file}:{node.lineno}: the marker takes ids, written out as strings"
                yield from texts


def named() -> set[str]:
    files = (*TESTS.rglob("test_*.py"), *TESTS.rglob("*_test.py"))
    return {name for file in files for name in named_in(file.read_text(encoding="utf-8"), str(file))}


def test_every_requirement_is_named_by_a_test_or_pending() -> None:
    missing = read("requirements.toml").keys() - read("requirements-pending.toml").keys() - named()
    assert not missing, (
        "no test names them; write one, or say in docs/requirements-pending.toml what is missing"
    )


def test_no_requirement_is_both_tested_and_pending() -> None:
    both = read("requirements-pending.toml").keys() & named()
    assert not both, "a test names them: take them out of docs/requirements-pending.toml"


def test_no_unknown_requirement_is_named() -> None:
    known = read("requirements.toml").keys()
    assert not named() - known
    assert not read("requirements-pending.toml").keys() - known


def test_requirements_have_a_text_and_pending_ones_a_reason() -> None:
    for name, requirement in read("requirements.toml").items():
        assert requirement.keys() == {"text"}, name
        assert requirement["text"].strip(), name
    for name, reason in read("requirements-pending.toml").items():
        assert isinstance(reason, str), name
        assert reason.strip(), name


def test_markers_are_found_wherever_pytest_allows_them() -> None:
    source = """
import pytest
pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A")]
@pytest.mark.requirement("B", "C")
class TestIt:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.requirement("D"))])
    @pytest.mark.requirement("E")
    async def test_it(self, x): ...
"""
    assert sorted(named_in(source)) == ["A", "B", "C", "D", "E"]
