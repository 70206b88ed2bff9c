"""The options that several commands share; each has its place in the environment too."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.systems.agentos.journal import Sync

__all__ = [
    "HERE",
    "AsJson",
    "Authority",
    "Data",
    "KeyFile",
    "KeyringFile",
    "LicenceFile",
    "Repo",
    "SessionId",
    "SyncText",
    "TierText",
    "Tries",
    "Turns",
    "Url",
]

Data = Annotated[Path, typer.Option("--data", envvar="AGENTOS_DATA", help="the data folder")]
TierText = Annotated[str, typer.Option("--tier", envvar="AGENTOS_TIER", help="local_only, minimized or full")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="AGENTOS_CCC_URL", help="https://HOST, http://127.0.0.1:PORT or unix:/PATH"),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", envvar="AGENTOS_CCC_KEY_FILE", help="a file with the bearer key")
]
Authority = Annotated[
    Path | None, typer.Option("--ca", envvar="AGENTOS_CCC_CA", help="a CA to trust in place of the system's")
]
LicenceFile = Annotated[
    Path | None, typer.Option("--licence", envvar="AGENTOS_LICENCE", help="the licence pack")
]
KeyringFile = Annotated[
    Path | None,
    typer.Option("--keyring", envvar="AGENTOS_KEYRING", help="the keys that licences may be signed with"),
]
SyncText = Annotated[
    Sync, typer.Option("--sync", envvar="AGENTOS_SYNC", help="each: a turn survives power loss")
]
Repo = Annotated[str, typer.Option(help="the repository's id")]
SessionId = Annotated[str | None, typer.Option("--id", help="the session's id, if it has one already")]
Turns = Annotated[Path, typer.Option("--from", help="turns, a JSON object a line; - for standard input")]
Tries = Annotated[
    int, typer.Option("--tries", envvar="AGENTOS_TRIES", min=1, help="of one batch, before it is left queued")
]
AsJson = Annotated[bool, typer.Option("--json", help="for scripts")]
HERE = Path(".agentos")
