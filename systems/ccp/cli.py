"""`ccp`: the command line. Standard library only, and each command imports what it needs: `ccp serve` is
started by supervisors and sandboxes, and its start-up is part of what they wait for."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, final

__all__ = ["main"]

EX_USAGE = 64
EX_SOFTWARE = 70


@final
class _Parser(argparse.ArgumentParser):
    """Bad usage is one line on stderr and exit 64, as for every bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(EX_USAGE, f"ccp: {message}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ccp", description="Routing proxy in front of the Anthropic Messages API.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    serve = commands.add_parser("serve", help="run the proxy")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8082)
    serve.add_argument("--uds", default="", metavar="PATH", help="listen on a Unix socket in place of TCP")
    serve.add_argument("--log-dir", type=Path, default=Path("logs"))
    serve.add_argument("--allow-remote", action="store_true", help="allow a --host that others can reach")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, 64 for bad surroundings, 70 for a fault of ours."""
    options = _parser().parse_args(argv)
    from holdfast.systems.ccp.faults import ConfigError

    try:
        return _run(options)
    except ConfigError as error:
        sys.stderr.write(f"ccp: {error}\n")
        return EX_USAGE
    except Exception as error:  # noqa: BLE001 - the last line of defence; the text could hold anything
        sys.stderr.write(f"ccp: internal error ({type(error).__name__}); please report it\n")
        return EX_SOFTWARE


def _run(options: argparse.Namespace) -> int:
    from holdfast.systems.ccp.server import Listen, serve

    listen = Listen(options.host, options.port, options.uds, options.allow_remote)
    return serve(listen, options.log_dir, os.environ)


if __name__ == "__main__":
    sys.exit(main())
