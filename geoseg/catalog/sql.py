"""SQL over tables at hand, behind closed doors: DuckDB without files, network, extensions or settings.

Files are read by pyarrow before or while a query runs, and only those that were given to `database`. No query can open
another: DuckDB itself has no access to anything (``enable_external_access``), sees no variables of this process
(``python_enable_replacements``), and cannot be told otherwise (``lock_configuration``). Only one SELECT is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geoseg.catalog.functions import FUNCTIONS, MACROS, SPATIAL_MACROS
from geoseg.errors import ConfigError, MissingExtraError
from geoseg.store.disk import scratch_folder

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Database", "database"]


class Database:
    """What one SELECT can be asked of."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def select(self, sql: str, parameters: Mapping[str, object] | None = None) -> pa.RecordBatchReader:
        """The answer, read while it is computed; times are UTC.

        Args:
            sql: One SELECT, or what DuckDB takes for one (FROM, WITH, DESCRIBE, SUMMARIZE).
            parameters: Values of ``$name``; those that `sql` does not name are left out.

        Raises:
            ConfigError: It is something else, or wrong.
        """
        import duckdb

        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise ConfigError("the query must be one SELECT: what it reads is never written to")
            named = statements[0].named_parameters
            values = {name: value for name, value in (parameters or {}).items() if name in named}
            return _told(self._connection.sql(statements[0].query, params=values or None).to_arrow_reader())
        except duckdb.Error as error:
            raise ConfigError(_reason(error)) from error


def _told(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same batches; what goes wrong on the way becomes one clear error."""
    import duckdb
    import pyarrow as pa

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (duckdb.Error, pa.ArrowException) as error:
            raise ConfigError(_reason(error)) from error

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _reason(error: Exception) -> str:
    r"""What DuckDB says, on one line, without the picture of where in the query.

    >>> _reason(ValueError('Binder Error: Referenced column "x" not found!\nCandidates: "y"\n\nLINE 1: SELECT x'))
    'the query cannot be answered: Binder Error: Referenced column "x" not found! Candidates: "y"'
    """
    return f"the query cannot be answered: {' '.join(str(error).partition('LINE ')[0].split())}"


@contextmanager
def database(tables: Mapping[str, Any], views: Mapping[str, str], *, spatial: bool = False) -> Iterator[Database]:
    """A database of `tables` (name -> Arrow table or dataset) and `views` (name -> SELECT), within the block.

    Args:
        tables: What can be read.
        views: What is made of it, each of those before.
        spatial: Whether DuckDB's own spatial extension, which must be installed, stands in for the functions of geoseg.

    Raises:
        ConfigError: The spatial extension is not installed.
        MissingExtraError: DuckDB is not installed.
    """
    try:
        import duckdb
        from duckdb.func import PythonUDFType
    except ImportError as error:
        raise MissingExtraError("SQL needs duckdb: pip install 'geoseg[catalog]'") from error
    settings: dict[str, str | bool | int | float | list[str]] = {
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": str(scratch_folder()),
        "threads": 1,  # the calling one: PROJ is lost in threads that Python did not start; and sums keep their order
    }
    with duckdb.connect(config=settings) as connection:  # a connection left open writes to standard error at the end
        if spatial:
            _load_spatial(connection)
        for name, (function, taken, given) in FUNCTIONS.items():
            connection.create_function(name, function, taken, given, type=PythonUDFType.ARROW)
        for name, meaning in (MACROS if spatial else MACROS | SPATIAL_MACROS).items():
            connection.execute(f"CREATE MACRO {name} AS {meaning}")
        for name, table in tables.items():
            connection.register(name, table)
        for name, select in views.items():
            connection.execute(f"CREATE VIEW {name} AS {select}")
        for setting in ("TimeZone = 'UTC'", "enable_external_access = false", "lock_configuration = true"):
            connection.execute(f"SET {setting}")
        yield Database(connection)


def _load_spatial(connection: Any) -> None:
    import duckdb

    try:
        connection.execute("LOAD spatial")
    except duckdb.Error as error:
        raise ConfigError(
            "DuckDB's spatial extension is not installed here: run INSTALL spatial in DuckDB once, or leave --spatial "
            "out, since the functions that matter most come with geoseg"
        ) from error
