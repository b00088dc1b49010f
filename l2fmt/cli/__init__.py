"""The command line. Exit codes: 0 ok, 1 failed, 2 usage, 3 corrupt or over a limit, 4 unsupported, 130 interrupted."""

import errno
import traceback
from typing import Any, NoReturn

import click

from l2codec.errors import KernelError
from l2fmt.cli import _output, _version
from l2fmt.cli._limits import way_out
from l2fmt.cli.bench import bench
from l2fmt.cli.demo import demo
from l2fmt.cli.diff import diff
from l2fmt.cli.index import index
from l2fmt.cli.inspect import inspect
from l2fmt.cli.pack import pack
from l2fmt.cli.plot import plot
from l2fmt.cli.unpack import unpack
from l2fmt.cli.verify import verify
from l2fmt.cli.warmup import warmup
from l2fmt.errors import L2Error, LimitExceededError

_INTERRUPTED = 130
_VERBOSE = "l2fmt.verbose"


def _set_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta[_VERBOSE] = True


def _verbose_option() -> click.Option:
    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_set_verbose,
        help="Show where an error came from.",
    )


class _Main(click.Group):
    """Runs a command and turns what it raises into one sentence and an exit code."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.params.append(_verbose_option())  # so that -v may stand before or after the command
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            _output.finish()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _output.message("interrupted")
            ctx.exit(_INTERRUPTED)
        except Exception as error:
            _fail(ctx, error)


def _fail(ctx: click.Context, error: Exception) -> NoReturn:
    """Say what went wrong and exit."""
    if _is_broken_pipe(error):  # whoever read our output has seen enough
        _output.abandon_stdout()
        ctx.exit(1)
    if ctx.meta.get(_VERBOSE):
        _output.message("".join(traceback.format_exception(error)).rstrip())
    elif isinstance(error, L2Error):
        for text in (str(error), *getattr(error, "__notes__", ())):
            _output.message(f"error: {text}")
        if isinstance(error, LimitExceededError):
            _output.message(way_out(error))
    elif isinstance(error, MemoryError):
        _output.message(f"error: out of memory {error}".rstrip())
    elif isinstance(error, OSError | KernelError):
        _output.message(f"error: {error}")
    else:
        _output.message(f"error: {type(error).__name__}: {error} (a bug in l2fmt; -v shows where)")
    ctx.exit(error.exit_code if isinstance(error, L2Error) else 1)


def _is_broken_pipe(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            return True
        error = error.__cause__
    return False


@click.group(cls=_Main, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, help="Show the version; with -v also what it runs on.")
@click.pass_context
def main(ctx: click.Context, version: bool) -> None:
    """Store neural networks in a tenth of their size, and load them back.

    \b
    l2fmt pack model.safetensors -o model.l2c --target-ratio 8
    l2fmt inspect model.l2c
    l2fmt unpack model.l2c -o model.safetensors

    A file named - is standard input or output.
    """
    if version:
        for line in _version.lines(verbose=ctx.meta.get(_VERBOSE, False)):
            _output.data(line)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        _output.data(ctx.get_help())


main.params.append(_verbose_option())
for _command in (pack, unpack, inspect, verify, diff, index, plot, bench, demo, warmup):
    main.add_command(_command)
