"""A stranger's command means the same inside as where it was typed."""

import dataclasses
from pathlib import Path

import pytest

from holdfast.harness.words import absolute_words, folders_of, split_words
from holdfast.sandbox import BadInputError, Host


def test_quotes_are_kept_together_and_no_shell_is_asked() -> None:
    assert split_words("proxy --name 'a b' $(x) {port}", option="--proxy-cmd") == (
        "proxy",
        "--name",
        "a b",
        "$(x)",
        "{port}",
    )


@pytest.mark.parametrize(
    ("text", "says"), [("a 'b", "cannot be split"), ("", "is empty"), ("  ", "is empty")]
)
def test_what_is_no_command_is_refused_with_its_option(text: str, says: str) -> None:
    with pytest.raises(BadInputError, match=f"`--proxy-cmd` {says}"):
        split_words(text, option="--proxy-cmd")


def test_files_become_absolute_and_other_words_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("")
    monkeypatch.chdir(tmp_path)
    words = absolute_words(("sh", "app/main.py", "missing/x.py", "--flag", "{port}"))
    assert words[1:] == (str(tmp_path / "app" / "main.py"), "missing/x.py", "--flag", "{port}")
    assert words[0].endswith("/sh")


def test_the_folder_of_a_file_is_shown_and_the_home_never_is(host: Host, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "app").mkdir(parents=True)
    for name in ("app/main.py", "start.sh"):
        (home / name).write_text("")
    here = dataclasses.replace(host, home=str(home))
    assert folders_of((str(home / "app" / "main.py"),), here) == (str(home / "app"),)
    assert folders_of((str(home / "start.sh"),), here) == (str(home / "start.sh"),)
    assert folders_of(("no-path", "/no/such/file"), here) == ()
