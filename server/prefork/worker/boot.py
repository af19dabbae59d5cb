"""A worker's first steps: become who it is to be, load the target, choose the model, serve.

Every failure before "ready" is told to the master in one line; it alone prints it. This file never accepts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import resource
from typing import TYPE_CHECKING, Final

from prefork import adapters, heap, log, prctl
from prefork.errors import PreforkError, TargetError
from prefork.log import LOGGER
from prefork.scoreboard import Field
from prefork.settings import DESCRIPTORS_KEPT
from prefork.worker import privileges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefork.service import Service
    from prefork.settings import Model, Settings
    from prefork.worker.post import Post

_MODULES: Final[dict[Model, str]] = {"async": "aio", "threads": "threads", "sync": "sync"}

LEFT: Final = 0
NEVER_READY: Final = 3


def run(post: Post) -> int:
    """Live a worker's whole life and return its exit code: 0 after an orderly end, 3 if it never became ready."""
    post.log.count_in(post.row.cells[Field.LOG_DROPPED :])
    log.set_levels(post.settings.log_level, access=post.settings.access_log)
    # from here on ABRT, the master's word for "you hang", leaves the stacks of all threads for the log
    faulthandler.enable(post.stacks or post.log.fd, all_threads=True)
    try:
        _raise_limits(post.settings)
        privileges.drop(post.settings)
        # a worker that is still importing its target cannot read its channel: the kernel tells it
        prctl.die_with_parent(post.master)
        heap.keep()
        service = post.plan.service or adapters.load(post.settings.target, post.settings.adapter)
        model = service.model(post.settings.model)
        service.check_tls(post.settings.tls_mode if post.plan.tls is not None else None)
        service.check_admission(post.settings.admission())
        # each worker loads its own model alone
        module = "listening" if service.kind == "listening" else _MODULES[model]
        importlib.import_module(f"prefork.worker.{module}").serve(post, service)
    except PreforkError as error:
        post.say_failed(str(error), error.__cause__)
        return NEVER_READY
    return LEFT


def load_model(model: Model) -> None:
    """Import what a worker of this model runs, before the fork: pages are shared, and a new worker is ready sooner."""
    importlib.import_module(f"prefork.worker.{_MODULES[model]}")
    if model == "async":
        with contextlib.suppress(ImportError):  # not on every platform
            importlib.import_module("uvloop")


def _raise_limits(settings: Settings) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + DESCRIPTORS_KEPT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def blocking_lifespan(service: Service) -> Iterator[None]:
    """Enter a service's plain lifespans for a blocking worker, and leave them in reverse.

    Raises:
        TargetError: one of them failed on entry, or is async.
    """
    with contextlib.ExitStack() as stack:
        try:
            for make in service.lifespans:
                manager = make()
                if not isinstance(manager, contextlib.AbstractContextManager):
                    raise TargetError(f"{service.name}: an async lifespan needs --model async")  # noqa: TRY301
                stack.enter_context(manager)
        except TargetError:
            raise
        except Exception as error:
            raise lifespan_failed(service, error) from error
        yield


def lifespan_failed(service: Service, error: BaseException) -> TargetError:
    """Log a lifespan that raised on entry, with its traceback, and return what to tell the master."""
    LOGGER.error("the lifespan of %s failed", service.name, exc_info=error)
    return TargetError(f"the lifespan of {service.name} failed: {type(error).__name__}: {error}")
