"""`holdfast worker uninstall-service`: what install-service did, undone."""

import click

from holdfast_worker.commands.worker.install_service import manager_option, unit_name
from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.output import say

__all__ = ["uninstall_service"]


@click.command()
@manager_option
@click.option(
    "--worker-id",
    envvar="HOLDFAST_WORKER_ID",
    show_envvar=True,
    metavar="ID",
    help="Whose service, where --name is not given.",
)
@click.option("--name", metavar="NAME", help="The unit's name, as install-service said it.")
def uninstall_service(is_system: bool, worker_id: str | None, name: str | None) -> None:
    """Stop a worker's service and remove it.

    Its jobs get their grace to end, as with SIGTERM. The file with its token stays, and is named.
    """
    from holdfast_worker.service.files import Foreign, is_ours
    from holdfast_worker.service.systemd import Manager, Refused
    from holdfast_worker.service.unit import MARK

    manager = Manager(is_system)
    unit = unit_name(name, worker_id)
    path = manager.units / f"{unit}.service"
    try:
        if not is_ours(path, mark=MARK):
            say(f"There is no {path}.")
            return
        manager.tell("stop", unit)
        manager.tell("disable", unit)
        path.unlink()
        manager.tell("daemon-reload")
    except Foreign:
        stop(
            Exit.FAILED,
            f"{path} was not written by `holdfast worker install-service`, so it is left as it is.",
        )
    except Refused as error:
        left = "is removed, but" if not path.exists() else "is left as it is:"
        stop(Exit.FAILED, f"{path} {left} systemd did not do what it was asked for: {error}")
    except OSError as error:
        stop(Exit.FAILED, f"{path} cannot be removed: {error.strerror}.")
    say(f"Removed {path}.")
    secret = manager.settings / f"{unit}.env"
    if secret.exists():
        say(f"{secret} is left, since it can hold a token: rm {secret}")
