"""A bundle: everything of a run in one archive, with a manifest of sha256 sums; the last few are kept.

write_bundle(folder, name, files) -> path       tar.gz, whole or not at all, the same bytes for the same files
prune(folder, name, keep)
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from holdfast.harness.run_id import Run

__all__ = ["MANIFEST", "collect", "prune", "write_bundle"]

MANIFEST = "manifest.json"
MAX_FILE = 256 << 20


def collect(results: Path, logs: Path, name: str) -> dict[str, bytes]:
    """The files of a loop, by the path that they get inside."""
    chosen = [
        *results.glob("SANDBOX*"),
        *results.glob(f"METRICS_{name}.json"),
        *results.glob(f"LOOP_{name}.json"),
        *logs.glob(f"usage_{name}_final.jsonl"),
    ]
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(chosen)
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_FILE
    }


def write_bundle(folder: Path, name: str, run: Run, files: Mapping[str, bytes]) -> Path:
    """`holdfast-<name>-<run id>.tar.gz` in `folder`; raises `OSError` where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    manifest = {
        "schema": "holdfast.bundle/1",
        "name": name,
        "run": {"id": run.id, "started": run.started, "commit": run.commit},
        "sha256": sums,
    }
    everything = {MANIFEST: json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n", **files}
    target = folder / f"holdfast-{name}-{run.id}.tar.gz"
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # No name and no time in the gzip header, no owner and no time in the members: the bytes are the files'.
        with (
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path, data in everything.items():
                member = tarfile.TarInfo(f"holdfast-{name}-{run.id}/{path}")
                member.size, member.mode = len(data), 0o600
                archive.addfile(member, io.BytesIO(data))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def prune(folder: Path, name: str, *, keep: int) -> tuple[Path, ...]:
    """Remove this loop's oldest bundles past `keep`; nothing else in the folder is touched."""
    old = sorted(folder.glob(f"holdfast-{name}-*.tar.gz"))[: -keep if keep else None]
    for path in old:
        path.unlink(missing_ok=True)
    return tuple(old)
