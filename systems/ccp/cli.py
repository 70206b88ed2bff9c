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
    serve.add_argument("--allow-remote", action="store_true", help="allow a --host that others can reach")
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes on the one address")
    serve.add_argument(
        "--allow-weaker", action="store_true", help="take options in CCP_BWRAP_ARGS that loosen the sandbox"
    )
    serve.add_argument("--log-max-bytes", type=int, default=64 * 1024 * 1024, metavar="N")
    serve.add_argument("--log-max-seconds", type=float, default=86400.0, metavar="S")
    serve.add_argument("--log-keep", type=int, default=14, metavar="N", help="archives to keep")
    doctor = commands.add_parser("doctor", help="check keys, policy, upstreams, clock, limits, sandbox")
    doctor.add_argument("--contract", action="store_true", help="check each clause of the gateway contract")
    verify = commands.add_parser("verify", help="prove the lane rules on recording upstreams")
    verify.add_argument("--json", action="store_true", help="print the findings as JSON")
    for command in (serve, doctor):
        command.add_argument("--log-dir", type=Path, default=Path("logs"))
        command.add_argument("--policy", default="", metavar="FILE|URL", help="in place of CCP_POLICY_URL")
    policy = commands.add_parser("policy", help="check, sign and explain policy packs")
    _policy_parser(policy.add_subparsers(dest="action", required=True, parser_class=_Parser))
    return parser


def _policy_parser(actions: "argparse._SubParsersAction[_Parser]") -> None:
    check = actions.add_parser("check", help="say whether a pack may be used")
    check.add_argument("file", type=Path)
    check.add_argument("--keys", type=Path, help="PEM public keys; the pack must be signed by one of them")
    sign = actions.add_parser("sign", help="write FILE.sig, a DSSE envelope over FILE's bytes")
    sign.add_argument("file", type=Path)
    sign.add_argument("--key", type=Path, required=True, help="PEM private key (Ed25519)")
    keygen = actions.add_parser("keygen", help="write PREFIX.key and PREFIX.pub")
    keygen.add_argument("prefix", type=Path)
    explain = actions.add_parser("explain", help="say which lane a model takes, and why")
    explain.add_argument("--model", required=True)
    explain.add_argument("--policy", default="", metavar="FILE", help="in place of the embedded default")
    actions.add_parser("show", help="print the embedded default as a pack")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, 1 when a check fails, 64 for bad surroundings, 70 for a fault of ours."""
    options = _parser().parse_args(argv)
    from holdfast.systems.ccp.faults import ConfigError

    try:
        return _run(options)
    except ConfigError as error:
        sys.stderr.write(f"ccp: {error}\n")
        return EX_USAGE
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence; the text could hold anything
        sys.stderr.write(f"ccp: internal error ({type(error).__name__}); please report it\n")
        return EX_SOFTWARE


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "serve":
            return _serve(options)
        case "doctor":
            from holdfast.systems.ccp.doctor import run_doctor

            return run_doctor(_environ(options), options.log_dir, contract=options.contract)
        case "verify":
            from holdfast.systems.ccp.verify import run_verify

            return run_verify(as_json=options.json)
        case _:
            from holdfast.systems.ccp.policy_commands import run_policy_command

            return run_policy_command(options, os.environ)


def _environ(options: argparse.Namespace) -> dict[str, str]:
    environ = dict(os.environ)
    if options.policy:
        environ["CCP_POLICY_URL"] = options.policy
    return environ


def _serve(options: argparse.Namespace) -> int:
    from holdfast.systems.ccp.faults import ConfigError
    from holdfast.systems.ccp.listen import Listen
    from holdfast.systems.ccp.server import load_service, run_service
    from holdfast.systems.ccp.settings import Isolation
    from holdfast.systems.ccp.usage import Rotation

    if (
        options.workers < 1
        or options.log_keep < 1
        or options.log_max_bytes < 1
        or options.log_max_seconds <= 0
    ):
        raise ConfigError(
            "`--workers`, `--log-keep`, `--log-max-bytes` and `--log-max-seconds` are 1 or more"
        )
    rotation = Rotation(options.log_max_bytes, options.log_max_seconds, options.log_keep)
    listen = Listen(options.host, options.port, options.uds, allow_remote=options.allow_remote)
    listen.check()
    service = load_service(_environ(options), options.log_dir, rotation)
    if service.settings.isolation is not Isolation.NONE:
        from holdfast.systems.ccp.confined import run_confined

        return run_confined(service, listen, _inner_args(options), allow_weaker=options.allow_weaker)
    if options.workers == 1:
        return run_service(service, listen)
    from holdfast.systems.ccp.workers import run_workers

    return run_workers(options.workers, listen, lambda where: run_service(service, where))


def _inner_args(options: argparse.Namespace) -> tuple[str, ...]:
    """What the confined copy is told besides its address and folder."""
    names = ("workers", "log_max_bytes", "log_max_seconds", "log_keep")
    return tuple(f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
