"""What every command shares: the options that stand before or behind it, and the application they lead to.

A Session is made once per invocation. Invariants: nothing is imported and no store is opened until a command asks for
it; an option behind the command wins over the same one before it; whatever was opened is closed when the command ends;
only a command that is there to put something into a store makes one that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.settings import Loaded

__all__ = ["GLOBAL_OPTIONS", "Commands", "Session", "app_target", "pass_session"]


class Session:
    """One invocation of the command: what its global options say."""

    def __init__(self) -> None:
        self.target: str | None = None  # what -A says
        self.url: str | None = None
        self.json = False
        self._app: Windlass | None = None

    def app_target(self) -> str | None:
        """Give ``module:attr`` of the application: ``-A``, else WINDLASS_APP, else the settings file, else None."""
        if self.target is None and self.url is None:
            from windlass.settings import load_settings

            return load_settings().settings.app
        return self.target

    def app(self) -> Windlass:
        """Give the application of the user, imported. Raises ConfigError when none is named."""
        if self._app is None:
            from windlass.cli.loading import load_app

            self._app = load_app(self._needed())
        return self._app

    def store(self, *, create: bool = False, needs_app: bool = False) -> Windlass:
        """Give an application with its store: the user's where one is named or needed, else a bare one.

        Without ``create`` a store that is not there is an error, so that a look into the wrong folder leaves nothing.
        """
        app = self.app() if needs_app else self._any_app()
        app.engine.may_create = create
        return app

    def _any_app(self) -> Windlass:
        if self._app is None and self.app_target() is None:
            from windlass.app import Windlass

            self._app = Windlass(self.url)
        return self.app()

    def loaded(self) -> Loaded:
        """Give the settings in force and where each came from."""
        return self._any_app().loaded

    def close(self) -> None:
        """Close what was opened. *Idempotent.*"""
        if self._app is not None:
            self._app.close()

    def _needed(self) -> str:
        from windlass.core.errors import ConfigError

        if self.target is not None and self.url is not None:
            raise ConfigError("-A and --url are both given: an application names its own store; leave one of them out")
        target = self.app_target()
        if target is None:
            also = "; --url alone does not name one" if self.url is not None else ""
            raise ConfigError(
                'no application is named: give -A module:attr, set WINDLASS_APP, or put app = "shop.jobs:app" '
                f"under [windlass] in windlass.toml{also}"
            )
        return target


pass_session = click.make_pass_decorator(Session)


class Commands(click.Group):
    """A group that shows its help when nothing is asked of it, and knows the nearest spelling of a command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the first sentence of their help, never cut short."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, command.get_short_help_str(limit=1_000)) for name, command in found if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            from windlass.core.units import nearest

            raise click.UsageError(f"there is no command {args[0]!r}{nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


def app_target(context: click.Context) -> str:
    """Give ``module:attr`` of the application without importing it. Raises ConfigError when none is named."""
    return context.ensure_object(Session)._needed()


def _remember(context: click.Context, option: click.Parameter, value: object) -> None:
    if value is not None and value is not False:
        setattr(context.ensure_object(Session), str(option.name), value)


def _option(*names: str, help: str, metavar: str | None = None) -> click.Option:
    flag = metavar is None
    return click.Option(
        names, is_flag=flag, default=None, expose_value=False, callback=_remember, help=help, metavar=metavar
    )


# Every command has them, so that they may stand before or behind its name.
GLOBAL_OPTIONS = (
    _option("-A", "--app", "target", metavar="MODULE:ATTR", help="The application, such as shop.jobs:app."),
    _option("--url", metavar="URL", help="The store, for commands that need no application."),
    _option("--json", help="Print JSON instead of text."),
)
