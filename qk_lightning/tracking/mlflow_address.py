"""Whether the address of an MLflow store can work at all, before anything asks there."""

from __future__ import annotations

from urllib.parse import urlsplit

from qk_lightning.config.errors import ConfigError, Problem

DATABASES = ("postgresql", "mysql", "mssql")  # beside sqlite, whose driver comes with Python


def check_address(variable: str, uri: str) -> None:
    """See that an address is whole, and that the driver of its database is installed.

    Args:
        variable: the environment variable that holds it.
        uri: the address.

    Raises:
        ConfigError: it cannot work.
    """
    fix = f"{variable}=sqlite:////absolute/path/mlflow.db, or leave it unset"
    try:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and not (parts.hostname and parts.port != 0):
            raise ValueError("no server is named")
    except ValueError as error:
        raise ConfigError(Problem(variable, uri, f"a whole address ({error})", fix)) from error
    if parts.scheme.partition("+")[0] not in DATABASES:
        return
    try:
        from sqlalchemy.engine import make_url

        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        fix = f"pip install what is missing, or {fix}"
        expected = f"a database whose driver is installed ({error})"
        raise ConfigError(Problem(variable, uri, expected, fix)) from error
    except _no_address() as error:
        raise ConfigError(Problem(variable, uri, f"a whole address ({error})", fix)) from error


def _no_address() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError
