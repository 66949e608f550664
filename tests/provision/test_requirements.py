"""What a model says it needs, whoever wrote it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.provision.provision_errors import RequirementsRefused
from prinz_enricher.provision.requirements import MAX_BYTES, Requirements, overridden, read_requirements

PYTHON_ENV = """
python: 3.11.7
build_dependencies:
- pip==24.0
- setuptools
dependencies:
- -r requirements.txt
"""

CONDA = """
channels:
- conda-forge
dependencies:
- python=3.10.13
- pip<=23
- pip:
  - mlflow==2.9.2
  - Scikit_Learn==1.3.2
name: mlflow-env
"""


def read(folder: Path, **files: str | bytes) -> Requirements:
    """Write files, named with `_` for `.` before their ending, and read them."""
    for name, content in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_requirements(folder)


def test_what_mlflow_writes(tmp_path: Path) -> None:
    """Python and the packages that it names, with their names as the index has them, sorted."""
    text = "mlflow==3.17.2\n# no\nScikit_Learn==1.9.1  # no\npandas[Parquet, excel] >=2, <4 ; python_version>'3'\n\n"
    found = read(tmp_path, python_env_yaml=PYTHON_ENV, requirements_txt=text, conda_yaml="no: matter")
    assert found == Requirements(
        "3.11.7",
        ("mlflow==3.17.2", 'pandas[Parquet,excel]<4,>=2; python_version > "3"', "scikit-learn==1.9.1"),
    )
    assert found.python_minor == "3.11"
    assert found.names() == {"mlflow", "pandas", "scikit-learn"}


def test_requirements_without_a_python(tmp_path: Path) -> None:
    """Without python_env.yaml the packages are those of requirements.txt, and Python is that of conda.yaml."""
    assert read(tmp_path, requirements_txt="a==1\n") == Requirements(None, ("a==1",))
    assert read(tmp_path, conda_yaml=CONDA) == Requirements("3.10.13", ("a==1",))


def test_conda_alone(tmp_path: Path) -> None:
    """Of models of long ago there is only conda.yaml; its part for pip is read."""
    assert read(tmp_path, conda_yaml=CONDA) == Requirements("3.10.13", ("mlflow==2.9.2", "scikit-learn==1.3.2"))


@pytest.mark.parametrize(
    ("entry", "python"),
    [
        ("python=3.8", "3.8"),
        ("python==3.8.1", "3.8.1"),
        ("python=3.8.1=h2755cc3_0", "3.8.1"),
        ("python=3.8.*", "3.8"),
        ("python", None),
        ("Python = 3.8", "3.8"),
    ],
)
def test_python_as_conda_writes_it(tmp_path: Path, entry: str, python: str | None) -> None:
    """A version with a build or a pattern is one too."""
    assert read(tmp_path, conda_yaml=f"dependencies: ['{entry}']") == Requirements(python)


def test_nothing_said(tmp_path: Path) -> None:
    """A model without these files needs nothing, and so does one whose files are empty."""
    assert read(tmp_path) == Requirements()
    assert read(tmp_path, requirements_txt="\n# nothing\n") == Requirements()
    assert read(tmp_path, python_env_yaml="python:") == Requirements()


def test_python_as_a_number(tmp_path: Path) -> None:
    """YAML reads 3.10 as 3.1; 3.10 is meant."""
    assert read(tmp_path, python_env_yaml="python: 3.10") == Requirements("3.10")
    assert read(tmp_path, python_env_yaml="python: 3.11") == Requirements("3.11")


def test_files_that_include_others(tmp_path: Path) -> None:
    """Within the model's folder, in whichever form pip takes; constraints are kept apart; a circle ends."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.txt").write_text("b==2\n-r two.txt\n--constraint=../limits.txt")
    (tmp_path / "more" / "two.txt").write_text("c==3\n-r ../requirements.txt\n")
    (tmp_path / "limits.txt").write_text("mlflow<3\n-r more/three.txt\n")
    (tmp_path / "more" / "three.txt").write_text("numpy<2")
    text = "a==\\\n1\n--requirement more/one.txt\n-c limits.txt\n"
    assert read(tmp_path, requirements_txt=text) == Requirements(
        None, ("a==1", "b==2", "c==3"), ("mlflow<3", "numpy<2")
    )


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-e git+https://example.org/a.git#egg=a",
        "--editable=.",
        "--index-url https://example.org/simple",
        "-i https://example.org/simple",
        "--extra-index-url=https://user:secret@example.org/simple",
        "--find-links https://example.org/",
        "-f wheels",
        "--trusted-host example.org",
        "--no-binary :all:",
        "--pre",
        "git+https://example.org/a.git",
        "https://user:secret@example.org/a-1.0-py3-none-any.whl",
        "a @ https://user:secret@example.org/a-1.0-py3-none-any.whl",
        "a @ file:///etc/passwd",
        "./wheels/a-1.0-py3-none-any.whl",
        "/a-1.0.tar.gz",
        "a==1 --hash=sha256:00",
        "a==1 --global-option=x",
        "-r ../requirements.txt",
        "-r /etc/passwd",
        "-c ../outside.txt",
        "-r https://example.org/requirements.txt",
        "-r missing.txt",
        "-r link.txt",
        "-r .",
        "-r \0",
        "a===1",
        'a; "x" < "y"',
        'a; os_name ~= "1"',
        "a; " + "(" * 5000 + "os_name == 'x'" + ")" * 5000,
        "a b c",
        "{a}",
        "${SECRET}",
        "=",
        "-",
    ],
)
def test_what_is_refused(tmp_path: Path, line: str) -> None:
    """A model names packages of the index, and says neither where code comes from nor how it is built."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "requirements.txt").write_text("outside==1")
    (tmp_path / "outside.txt").write_text("outside==1")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    for files in ({"requirements_txt": line}, {"python_env_yaml": f"dependencies: [{json.dumps(line)}]"}):
        with pytest.raises(RequirementsRefused) as refused:
            read(folder, **files)
        assert not refused.value.may_pass
        assert "secret" not in str(refused.value)
        assert len(str(refused.value)) < 300
        assert "\n" not in str(refused.value)


def test_a_name_is_that_of_a_package(tmp_path: Path) -> None:
    """Even where there is a folder of that name."""
    (tmp_path / "code").mkdir()
    assert read(tmp_path, requirements_txt="code") == Requirements(None, ("code",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("python_env_yaml", "- python"),
        ("python_env_yaml", "python: latest"),
        ("python_env_yaml", "python: '3'"),
        ("python_env_yaml", "python: ../../bin/python"),
        ("python_env_yaml", "python: -3.11"),
        ("python_env_yaml", "python: [3.11]"),
        ("python_env_yaml", "dependencies: a==1"),
        ("python_env_yaml", "dependencies: [[a]]"),
        ("python_env_yaml", "a: &a {<<: *a}"),
        ("python_env_yaml", "[" * 5000),
        ("python_env_yaml", "\t{"),
        ("python_env_yaml", "!!python/object/apply:os.getcwd []"),
        ("conda_yaml", "dependencies: [python=3.10, libgcc]"),
        ("conda_yaml", "dependencies: [python>=3.8]"),
        ("conda_yaml", "dependencies: ['conda-forge::python=3.8']"),
        ("conda_yaml", "dependencies: [{pip: [a], conda: [b]}]"),
        ("conda_yaml", "dependencies: [{pip: a}]"),
        ("conda_yaml", "dependencies: {a: b}"),
        ("requirements_txt", b"\xff\xfe"),
        ("requirements_txt", "#" * (MAX_BYTES + 1)),
        ("requirements_txt", "".join(f"a{number}\n" for number in range(2001))),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, content: str | bytes) -> None:
    """What is too large, too deep, or not of its form is told in a sentence."""
    with pytest.raises(RequirementsRefused):
        read(tmp_path, **{name: content})


def test_many_files_are_refused(tmp_path: Path) -> None:
    """A chain of files has an end."""
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt")
    with pytest.raises(RequirementsRefused, match="more than 20 files"):
        read(tmp_path, requirements_txt="-r 0.txt")


TEXT = st.text() | st.text(alphabet="ab19.=<>~!;,[]()-rc '\"\\\n#@:/${}&*|", max_size=60)
LINE = TEXT | st.sampled_from(
    [
        "a==1",
        "-r requirements.txt",
        "-c b",
        "--index-url x",
        f"a==1 --hash=sha256:{'0' * 64}",
        "a @ http://b",
        "b;os_name=='c'",
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | LINE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.just("pip"), inner, max_size=3),
    max_leaves=12,
)
FILE = (
    st.binary()
    | st.lists(LINE).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
    | st.fixed_dictionaries({}, optional={"python": VALUE, "dependencies": VALUE | st.lists(VALUE, max_size=5)}).map(
        lambda content: yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
    )
)


@given(
    st.fixed_dictionaries(
        {}, optional={"python_env.yaml": FILE, "requirements.txt": FILE, "conda.yaml": FILE, "b": FILE}
    )
)
def test_any_bytes_are_read_or_refused(files: dict[str, bytes]) -> None:
    """There is no other error, and what is read names packages of the index alone, in one way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            found = read_requirements(folder)
        except RequirementsRefused as refused:
            assert "\n" not in str(refused)  # noqa: PT017 - it need not be raised
            return
        for listed in (found.requirements, found.constraints):
            assert list(listed) == sorted(set(listed))
            assert not any("\n" in one or "://" in one or one.startswith("-") for one in listed)
        # Written as a file, it says the same.
        again = folder / "again"
        again.mkdir()
        (again / "requirements.txt").write_text("".join(f"{one}\n" for one in found.requirements))
        assert read_requirements(again).requirements == found.requirements


def test_overrides_replace_what_has_their_name() -> None:
    """And nothing is added that nobody asked for."""
    needed = Requirements("3.11", ("mlflow==3.18.0", "numpy==1.26.4"), ("mlflow<4", "pandas<3"))
    assert overridden(needed, ("MLflow==3.17.2", "scipy==1")) == Requirements(
        "3.11", ("mlflow==3.17.2", "numpy==1.26.4"), ("pandas<3",)
    )
    assert overridden(needed, ()) == needed
    with pytest.raises(RequirementsRefused):
        overridden(needed, ("mlflow @ https://example.org/",))
