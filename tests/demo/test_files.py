"""Which files become jobs, and what a worker says of one."""

import hashlib
from pathlib import Path

import pytest

from holdfast_worker.demo.files import MAX_FILE_BYTES, choose_files, payload_for
from holdfast_worker.demo.worker import examine


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ["a.py", "pkg/b.py", "pkg/tests/c.py", "pkg/__pycache__/d.py", ".hidden/e.py", "pkg/f.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    return tmp_path


def test_every_python_file_of_a_tree_is_chosen_but_hidden_and_compiled_ones(tree: Path) -> None:
    chosen = choose_files(tree, 100)
    assert chosen.files == ("a.py", "pkg/b.py", "pkg/tests/c.py")
    assert (chosen.found, chosen.too_large) == (3, 0)


def test_a_limit_spreads_the_choice_over_the_tree(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"m{number}.py").touch()
    chosen = choose_files(tmp_path, 3)
    assert chosen.files == ("m0.py", "m3.py", "m6.py")
    assert chosen.found == 10


def test_too_large_files_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    chosen = choose_files(tmp_path, 3)
    assert (chosen.files, chosen.too_large) == ((), 1)


def test_by_default_it_is_pythons_own_library_without_its_tests() -> None:
    chosen = choose_files(None, 5_000)
    assert chosen.found > 100
    assert "json/decoder.py" in chosen.files
    assert not any("test" in Path(name).parts for name in chosen.files)


def test_the_pace_differs_from_file_to_file_and_stays_in_bounds(tree: Path) -> None:
    chosen = choose_files(tree, 100)
    paces = {payload_for(chosen, name, 2.0)["paceSeconds"] for name in chosen.files}
    assert len(paces) == 3
    assert all(1.0 <= pace <= 3.0 for pace in paces)


def test_a_file_is_hashed_and_compiled(tmp_path: Path) -> None:
    source = b"def f():\n    return [x for x in ()]\n"
    (tmp_path / "m.py").write_bytes(source)
    result = examine(tmp_path, "m.py")
    assert result["sha256"] == hashlib.sha256(source).hexdigest()
    assert result["compiled"] is True
    assert result["codeObjects"] >= 2


@pytest.mark.parametrize(
    "source",
    [b"def f(:\n", b"x = '\xff'\n", b"a\0b", b"(" * 5_000, b'"\\d"\n'],
    ids=["syntax", "bytes", "nul", "deep", "warning"],
)
def test_a_file_that_does_not_compile_is_a_result_and_no_failure(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "m.py").write_bytes(source)
    result = examine(tmp_path, "m.py")
    assert result["sha256"] == hashlib.sha256(source).hexdigest()
    assert result["compiled"] is (source == b'"\\d"\n')


def test_a_file_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        examine(tmp_path, "m.py")
