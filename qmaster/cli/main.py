"""The command line: it serves if there is no command. Commands are imported when they are called."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import click

from .. import __version__
from ..errors import ConfigError
from ..models import validation
from ..server import config
from . import descriptors
from .options.server import with_options

USAGE_ERROR = 2
UNWRITABLE = (errno.ENOSPC, errno.EBADF, errno.EIO)  # errors of a print; click handles EPIPE
OF_ALL = ("--url", "--token-file")  # options of all commands that may come before the command; with a value
JSON = "--json"  # the same, without a value
# The server's imports take a second, aiohttp's a quarter, asyncio's a tenth: neither --help nor healthcheck, which runs
# every ten seconds, needs them.
SERVER, LOG = "qmaster.server.app", "qmaster.server.log"
COMMANDS = {  # name → its module, and its line in --help
    "run": ("qmaster.cli.commands", "Run a job, follow its output, and exit with its exit code."),
    "stop": ("qmaster.cli.commands", "Stop and remove services and containers."),
    "status": ("qmaster.cli.commands", "List services and containers, or show one."),
    "wait": ("qmaster.cli.watching", "Wait for the end of jobs, and print their exit codes."),
    "logs": ("qmaster.cli.commands", "Show the output of a job."),
    "events": ("qmaster.cli.commands", "Watch changes as they happen."),
    "nodes": ("qmaster.cli.commands", "List the nodes of the swarm."),
    "deploy": ("qmaster.cli.functions.functions", "Publish a function."),
    "functions": ("qmaster.cli.functions.functions", "List the functions, or show one."),
    "rollback": ("qmaster.cli.functions.functions", "Publish a version of a function again."),
    "invoke": ("qmaster.cli.functions.invoke", "Call a function, and print its output."),
    "invocations": ("qmaster.cli.functions.invocations", "List asynchronous calls, or show one."),
    "redrive": ("qmaster.cli.functions.invocations", "Try dead asynchronous calls again."),
    "cancel": ("qmaster.cli.functions.invocations", "Cancel asynchronous calls that wait."),
    "schedules": ("qmaster.cli.functions.functions", "List the schedules of the functions."),
    "undeploy": ("qmaster.cli.functions.functions", "Delete functions."),
    "token": ("qmaster.cli.token", "Make a token, and its entry for the tokens file."),
    "healthcheck": ("qmaster.cli.healthcheck", "Check whether the server on this machine is alive."),
    "help": (__name__, "Show the help of a command."),
}
ALIASES = {"ps": "status", "ls": "status", "rm": "stop"}  # other tools' names of commands
# Fields of a run without an option of that name, and Docker's short options that run does not have.
ARGUMENTS = {"image": "IMAGE", "command": "COMMAND"}
NOT_OPTIONS = {**ARGUMENTS, "auth": "--auth-file", "wait": "qmaster run"}
SHORT = {"-v": "volume", "-i": "interactive", "-t": "tty", "-c": "cpu-shares", "-P": "publish-all", "-a": "attach"}
# Commands of Docker and kubectl → the command to use instead.
COMMANDS_INSTEAD = {
    **dict.fromkeys(("list", "get", "inspect", "describe"), "status"),
    **dict.fromkeys(("kill", "delete"), "stop"),
    **dict.fromkeys(("create", "start"), "run"),
    "watch": "events",
    **dict.fromkeys(("publish", "push"), "deploy"),
    "call": "invoke",
    **dict.fromkeys(("function", "versions"), "functions"),
    "invocation": "invocations",
    **dict.fromkeys(("cron", "schedule", "cronjobs"), "schedules"),
    "node": "nodes",
}
_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


class _Wrong(click.UsageError):
    """A usage error on one line, like every other error; click shows four lines."""

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(_words(error), error.ctx)
        self.exit_code = error.exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        where = self.ctx.command_path if self.ctx else "qmaster"
        click.echo(f"qmaster: {_shown(self.message)} ({where} --help)", file=file, err=True)


def _words(error: click.UsageError) -> str:
    if not isinstance(error, click.NoSuchOption):
        text = " ".join(error.format_message().split()).removesuffix(".")
        return text[:1].lower() + text[1:] + _command_instead(text)
    if error.option_name == "--token":
        return "no command takes a token, as all users of the machine could see it; set TOKEN, or TOKEN_FILE to a file"
    return f"no such option: {error.option_name}{_instead(error.option_name, error.ctx)}"


def _command_instead(text: str) -> str:
    found = re.fullmatch(r"[Nn]o such command '(\w+)'", text)
    use = COMMANDS_INSTEAD.get(found[1]) if found else None
    return f": use {use}" if use else ""


def _instead(option: str, context: click.Context | None) -> str:
    """Return a hint for an unknown option; a guess only if it means the same."""
    params = context.command.params if context else []
    options = {param.name or "": param.opts[0] for param in params if param.param_type_name == "option"}
    others = NOT_OPTIONS if "auth_file" in options else ARGUMENTS  # of run, and of deploy
    answer = validation.answer(SHORT.get(option, option), options | others) if "cpus" in options else None
    if answer is not None:
        return f": {answer}"
    fields = {validation.squeezed(name): flag for name, flag in options.items()}  # as in a request: pull_policy
    near = validation.meant(option, options.values()) or fields.get(validation.squeezed(option))
    return f"; did you mean {near}?" if near else ""


def _shown(text: str) -> str:
    r"""Show bytes that are not UTF-8 as ``\xff``; Python's ``repr`` shows ``\udcff``."""
    return _BYTE.sub(r"\\x\1", text.encode("utf-8", "backslashreplace").decode())


class LazyGroup(click.Group):
    """The commands of ``COMMANDS``, in their order; a command's module is imported when it is called."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        descriptors.open_missing()
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _options_behind(args))

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _on_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _on_one_line():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[name][0]), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _options_behind(args: list[str]) -> list[str]:
    """Return the arguments with the options of ``OF_ALL`` and ``JSON`` moved behind the command."""
    at = 0
    while at < len(args) and args[at].partition("=")[0] in (*OF_ALL, JSON):
        at += 2 if args[at] in OF_ALL else 1
    if at == 0:
        return args
    if at >= len(args) or args[at].startswith("-"):
        raise click.UsageError(f"{args[0].partition('=')[0]} is an option of the commands; put a command after it")
    return [args[at], *args[:at], *args[at + 1 :]]


@contextmanager
def _on_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        raise _Wrong(error) from None
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        click.echo(f"qmaster: the output cannot be written: {error.strerror}", err=True)
        descriptors.write_no_more()
        sys.exit(1)


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="quartermaster")
@click.pass_context
@with_options(*config.OPTIONS)
def main(context: click.Context, **flags: Any) -> None:
    """Run functions and jobs on Docker and Docker Swarm over HTTP, with a token.

    Without a command, it serves. Each option is a flag or an environment variable; the flag wins. Commands call the
    server at QMASTER_URL with the same TOKEN, and have their own options. The command token calls no server.
    """
    if context.invoked_subcommand is None:
        _serve(flags)
        return
    given = [option.flag for option in config.OPTIONS if flags[option.name] is not None]
    if given:
        raise click.UsageError(f"{given[0]} is for serving; put the options of {context.invoked_subcommand} after it")


def _serve(flags: Mapping[str, str | None]) -> None:
    try:
        settings = config.load(flags, os.environ)
        importlib.import_module(LOG).configure(settings.log_format, [settings.token])
        importlib.import_module(SERVER).run(settings)
        _leave()
    except ConfigError as error:
        click.echo(f"qmaster: {error}", err=True)
        sys.exit(USAGE_ERROR)


def _leave() -> None:
    """Exit without waiting for threads: everything is closed, but a silent engine could block a thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@click.command("help")
@click.argument("command", required=False)
@click.pass_context
def help(context: click.Context, command: str | None) -> None:  # noqa: A001 - named as the command is
    """Show the help of COMMAND, or of qmaster."""
    parent = context.parent or context
    asked = parent
    if command is not None:
        found = main.get_command(parent, command)
        if found is None:
            raise click.UsageError(f"no such command {command!r}", parent)
        asked = click.Context(found, info_name=command, parent=parent)
    click.echo(asked.get_help())
