"""The options and arguments that several commands share."""

import functools
import getpass
import inspect
import logging
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.printing import Output

if TYPE_CHECKING:
    from jobs.storage.store import Store

Command = Callable[..., None]


def output_of(context: typer.Context) -> Output:
    """The `Output` of this invocation; made here where a caller (a test, shell completion) came without one."""
    return context.ensure_object(Output)


def store_of(output: str, endpoint_url: str | None) -> "Store":
    """Where an output lies. Raises ConfigError for what names no such place."""
    from jobs.storage.opening import open_store
    from jobs.storage.place import as_place, check_endpoint

    return open_store(as_place(output), None if endpoint_url is None else check_endpoint(endpoint_url))


def with_options_of(other: Callable[..., object], *, without: Collection[str]) -> Callable[[Command], Command]:
    """Give a command the arguments and options of another as well, as far as it has none of that name; it finds them in
    `context.params`. without: names of those that it does not get."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        theirs = inspect.signature(other, eval_str=True).parameters
        more = [one for name, one in theirs.items() if name not in own.parameters and name not in without]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(**{name: given[name] for name in own.parameters})

        run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
        return run

    return decorate


def refuse_configuration(photos: str | None) -> None:
    """Raise typer.BadParameter where the name of a YAML file was given as the source of pictures."""
    if photos is not None and photos.lower().endswith((".yaml", ".yml")) and not Path(photos).is_dir():
        raise typer.BadParameter(
            f"{photos} is a configuration by its name; give it as --config {shlex.quote(photos)}, and PHOTOS before it or as "
            "`photos:` in it",
            param_hint="PHOTOS",
        )


def kept_text(path: Path, option: str) -> str:
    """The text of a file that somebody kept and gives back under an option. Raises typer.BadParameter."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} can not be read ({error})", param_hint=option) from error


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that is closed to others. Raises StorageError: it is there already, or can not be written."""
    from keystore.errors import StorageError
    from keystore.storage import durable

    try:
        durable.write_new(path, content, durable.SECRET_MODE)
    except OSError as error:
        raise StorageError(f"{path} can not be written ({error.strerror}); name a new file") from error


def _set_json(context: typer.Context, value: bool) -> bool:
    output_of(context).as_json |= value
    return value


def _set_verbose(context: typer.Context, value: bool) -> bool:
    if value:
        output_of(context).verbose = True
        for package in ("keyanon", "jobs", "keyanon_core", "keystore"):
            logging.getLogger(package).setLevel(logging.DEBUG)
    return value


Json = Annotated[
    bool,
    typer.Option("--json", callback=_set_json, is_eager=True, help="Print exactly one JSON document on stdout."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_set_verbose, is_eager=True, help="Log to stderr; tracebacks on errors."),
]
KeystorePath = Annotated[Path, typer.Argument(metavar="KEYSTORE", help="Directory of the keystore.")]
RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="Id that `keyanon request` printed.")]
KekUri = Annotated[
    str | None,
    typer.Option(
        "--kek", metavar="URI", help="Where the KEK is kept, such as file:/path/kek.key. Default: KEYSTORE/kek.key."
    ),
]
ProgressSeconds = Annotated[
    float | None,
    typer.Option(
        "--progress-seconds",
        metavar="S",
        min=0.1,
        help="Off a terminal, a JSON line of progress so often on stderr.",
        show_default="30",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        metavar="URL",
        help="Of an S3 server that is not Amazon's. Default: AWS_ENDPOINT_URL, else Amazon's.",
    ),
]
OutputPlace = Annotated[str, typer.Argument(metavar="OUT", help="Output of a run: directory or s3://bucket/prefix.")]
# What a name is worth (docs/threat-model.md): said in the help of each `--as`.
AT_ITS_WORD = "A keystore on this machine takes the name at its word: it proves nothing."
BY_TOKEN = f"{AT_ITS_WORD} A service goes by the token instead."
Person = Annotated[str, typer.Option("--as", metavar="NAME", help=f"Who acts. {AT_ITS_WORD}")]
PersonOrUser = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help=f"Who acts. {BY_TOKEN}", show_default="the operating system's user"),
]


def acting_person(name: str | None) -> str:
    """The name given with --as, else the operating system's user.

    Raises:
        typer.BadParameter: the name is empty, or the process runs under a user without a name.
    """
    if name is None:
        try:
            name = getpass.getuser()
        except (OSError, KeyError) as error:
            raise typer.BadParameter("this user has no name; say who acts with --as NAME") from error
    if not name.strip():
        raise typer.BadParameter("--as needs a name")
    return name.strip()
