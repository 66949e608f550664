"""Requirements with hashes, and wheels of a model's own files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from prinz_enricher.provision.provision_errors import RequirementsRefused
from prinz_enricher.provision.requirements import Requirements, located, overridden
from tests.provision.test_requirements import read
from tests.support.tiny_wheel import write_wheel

A = f"sha256:{'a' * 64}"
B = f"sha512:{'b' * 128}"

COMPILED = f"""
#    pip-compile --generate-hashes
numpy==2.4.6 \\
    --hash={A} \\
    --hash={B}
    # via
    #   pandas
pandas[excel]==3.1.1 ; python_version >= "3.11" \\
    --hash sha256:{"C" * 64}  # via -r requirements.in
plain
"""


def test_requirements_with_hashes(tmp_path: Path) -> None:
    """They are kept beside their requirement, as pip-compile, uv and poetry write them, of constraints too."""
    (tmp_path / "limits.txt").write_text(f"scipy==1.18.0 --hash={A}\n")
    assert read(tmp_path, requirements_txt=COMPILED + "-c limits.txt") == Requirements(
        None,
        (
            f"numpy==2.4.6 --hash={A} --hash={B}",
            f'pandas[excel]==3.1.1; python_version >= "3.11" --hash=sha256:{"c" * 64}',
            "plain",
        ),
        (f"scipy==1.18.0 --hash={A}",),
    )
    assert read(tmp_path).names() == {"numpy", "pandas", "plain"}
    listed = json.dumps([f"numpy==2.4.6 \\\n --hash={A}"])
    assert read(tmp_path, python_env_yaml=f"dependencies: {listed}").requirements == (f"numpy==2.4.6 --hash={A}",)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"a==1 --hash={A}0", 'has the invalid hash "sha256:a'),
        ("a==1 --hash=md5:00000000000000000000000000000000", 'invalid hash "md5:0'),
        ("a==1 --hash=", 'invalid hash ""'),
        (f"a==1 --hash={A} --global-option=x", "nothing behind them"),
        (f"a==1 --global-option=x --hash={A}", "is not a requirement"),
        (f"a --hash={A}", "expected == and that version alone"),
        (f"a>=1,<=1 --hash={A}", "expected == and that version alone"),
        (f"a==1.* --hash={A}", "expected == and that version alone"),
        (f"a==1,<2 --hash={A}", "expected == and that version alone"),
        (f"a==1 --hash={A}\nA==1.0 --hash={B}", "has other hashes on another line"),
        (f"--hash={A}", "is not allowed"),
    ],
)
def test_hashes_that_nobody_would_verify(tmp_path: Path, line: str, told: str) -> None:
    """They are refused with their line: an installer would pass over them, or over one of two."""
    with pytest.raises(RequirementsRefused, match=r"in the model's requirements\.txt") as refused:
        read(tmp_path, requirements_txt=line)
    assert told in str(refused.value)


def test_wheels_of_the_model_s_own_files(tmp_path: Path) -> None:
    """They are known by name and content, wherever in the model's folder they are, and whichever file names them."""
    one = write_wheel(tmp_path / "wheels", "Wine_Cellar", "1.0")
    two = write_wheel(tmp_path / "code" / "my libs", "tools", "2.1.post1")
    three = write_wheel(tmp_path, "flat", "3")
    lines = [
        "wheels/Wine_Cellar-1.0-py3-none-any.whl",
        "code/my libs/tools-2.1.post1-py3-none-any.whl  # ours",
        f"./flat-3-py3-none-any.whl --hash=sha256:{three}",
    ]
    entries = (
        f"flat @ flat-3-py3-none-any.whl --hash=sha256:{three}",
        f"tools @ code/my%20libs/tools-2.1.post1-py3-none-any.whl --hash=sha256:{two}",
        f"wine-cellar @ wheels/Wine_Cellar-1.0-py3-none-any.whl --hash=sha256:{one}",
    )
    found = read(tmp_path, requirements_txt="\n".join(lines))
    assert found.requirements == entries
    assert found.names() == {"flat", "tools", "wine-cellar"}
    (tmp_path / "requirements.txt").unlink()
    assert read(tmp_path, conda_yaml=f"dependencies: [{{pip: {json.dumps(lines)}}}]").requirements == entries
    place = (tmp_path / "code" / "my libs" / "tools-2.1.post1-py3-none-any.whl").as_uri()
    assert located(entries[1], tmp_path) == f"tools @ {place} --hash=sha256:{two}"
    assert located("numpy<3", tmp_path) == "numpy<3"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("wheels/b-1.0-py3-none-any.whl", "is missing in the model's folder"),
        ("../outside-1.0-py3-none-any.whl", "is missing in the model's folder"),
        ("wheels/../a-1.0-py3-none-any.whl", "is missing in the model's folder"),
        ("{folder}/a-1.0-py3-none-any.whl", "is missing in the model's folder"),
        ("linked-1.0-py3-none-any.whl", "is missing in the model's folder"),
        ("folder-1.0-py3-none-any.whl", "is missing in the model's folder"),
        ("a\0-1.0-py3-none-any.whl", "invalid"),
        ("wheels/a.whl", "is invalid as the path of a wheel"),
        ("renamed-x-py3-none-any.whl", "is invalid as the path of a wheel"),
        (f"a-1.0-py3-none-any.whl --hash={A}", "has another hash than its line says"),
        ("file:a-1.0-py3-none-any.whl", "is invalid as the path of a wheel"),
        ("a @ a-1.0-py3-none-any.whl", "package from a URL"),
        ("a-1.0-py3-none-any.whl[extra]", "and nothing behind it"),
        ("a-1.0-py3-none-any.whl ; python_version > '3'", "and nothing behind it"),
        ("-c limits.txt", "expected names of packages among the constraints"),
    ],
)
def test_wheels_that_are_refused(tmp_path: Path, line: str, told: str) -> None:
    """What is not a file of the model, or not what its line says, is told with the line."""
    folder = tmp_path / "model"
    write_wheel(folder, "a", "1.0")
    write_wheel(folder / "wheels", "c", "1.0")
    write_wheel(tmp_path, "outside", "1.0")
    (folder / "linked-1.0-py3-none-any.whl").symlink_to(tmp_path / "outside-1.0-py3-none-any.whl")
    (folder / "folder-1.0-py3-none-any.whl").mkdir()
    (folder / "limits.txt").write_text("a-1.0-py3-none-any.whl")
    with pytest.raises(RequirementsRefused) as refused:
        read(folder, requirements_txt=line.format(folder=folder) if "{folder}" in line else line)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("Requires-Dist: evil @ http://user:pw@127.0.0.1:9/evil-1.0.whl\n", '"evil @ http://127.0.0.1:9/evil-1.0.whl"'),
        ("Requires-Dist: numpy\nRequires-Dist: evil @ git+http://127.0.0.1:9/evil\n", '"evil @ git+http://127'),
        ("requires-dist : evil@file:///etc/evil ; extra == 'x'\n", '"evil@file:///etc/evil'),
        ("Requires-Dist: evil\r\n\t@ https://127.0.0.1:9/e\r\n", '"evil @ https://127'),
        ("no field\nRequires-Dist: evil @ ssh://127.0.0.1:9/e\n", '"evil @ ssh://127'),
        ("\nRequires-Dist: evil @ ftp://127.0.0.1:9/e\n", '"evil @ ftp://127'),
        ("Requires-Dist: ../evil-1.0-py3-none-any.whl\n", "is not a requirement"),
    ],
)
def test_a_wheel_that_requires_a_url(tmp_path: Path, metadata: str, told: str) -> None:
    """It is refused with its name and the requirement, as a requirement of the model itself would be."""
    write_wheel(tmp_path, "a", "1.0", metadata=metadata)
    with pytest.raises(RequirementsRefused, match=r'wheel "a-1\.0-py3-none-any\.whl" requires what is not') as refused:
        read(tmp_path, requirements_txt="a-1.0-py3-none-any.whl")
    assert told in str(refused.value)
    assert "pw" not in str(refused.value)


def test_a_wheel_that_requires_packages(tmp_path: Path) -> None:
    """By their names it may, with extras, markers and versions in parentheses."""
    names = ("b", "c[x]>=1,<2", "d (>=1.0)", "e ; python_version > '3'")
    write_wheel(tmp_path, "a", "1.0", metadata="".join(f"Requires-Dist: {one}\n" for one in names) + "\nWords: é @ x\n")
    assert len(read(tmp_path, requirements_txt="a-1.0-py3-none-any.whl").requirements) == 1


def _bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("a-1.0.dist-info/METADATA", bytes(1 << 26), zipfile.ZIP_DEFLATED)


def _two(archive: zipfile.ZipFile) -> None:
    archive.writestr("a-1.0.dist-info/METADATA", "")
    archive.writestr("A-1.0.dist-info/metadata", "Requires-Dist: evil @ http://127.0.0.1:9/e")


def _none(archive: zipfile.ZipFile) -> None:
    archive.writestr("x/a-1.0.dist-info/METADATA", "")


def _no_text(archive: zipfile.ZipFile) -> None:
    archive.writestr("a-1.0.dist-info/METADATA", b"\xff")


@pytest.mark.parametrize("write", [_bomb, _two, _none, _no_text])
def test_a_wheel_whose_metadata_can_not_be_read(tmp_path: Path, write: Callable[[zipfile.ZipFile], None]) -> None:
    """A bomb is not unpacked; what two installers could read in two ways is refused."""
    with zipfile.ZipFile(tmp_path / "a-1.0-py3-none-any.whl", "w") as archive:
        write(archive)
    with pytest.raises(RequirementsRefused, match="can't be read; expected a wheel"):
        read(tmp_path, requirements_txt="a-1.0-py3-none-any.whl")


@pytest.mark.parametrize("cut", [0, 1, 60, 200, -1, -22, -40])
def test_a_broken_wheel_is_refused(tmp_path: Path, cut: int) -> None:
    """Wherever it breaks off, or no zip at all."""
    write_wheel(tmp_path, "a", "1.0")
    place = tmp_path / "a-1.0-py3-none-any.whl"
    place.write_bytes(place.read_bytes()[:cut])
    with pytest.raises(RequirementsRefused, match="can't be read; expected a wheel"):
        read(tmp_path, requirements_txt=place.name)


def test_overrides_replace_hashes_and_wheels(tmp_path: Path) -> None:
    """Who overrides a package answers for it; what another package is stays as it was."""
    write_wheel(tmp_path, "tools", "1.0")
    needed = read(
        tmp_path, requirements_txt=f"numpy==2.4.6 --hash={A}\nscipy==1 --hash={A}\n./tools-1.0-py3-none-any.whl"
    )
    assert overridden(needed, ("numpy==2.4.5", "tools<2")).requirements == (
        "numpy==2.4.5",
        f"scipy==1 --hash={A}",
        "tools<2",
    )
