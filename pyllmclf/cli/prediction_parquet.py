"""Predictions as a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .prediction_writer import Writer, check_free, is_unicode, no_rows, no_unicode, original_name, plain_list

if TYPE_CHECKING:
    import numpy as np

    from ..data.readers.row_batches import Rows


class ParquetWriter(Writer):
    """A Parquet file, in which columns of a Parquet input keep their types."""

    def begin(self) -> None:
        super().begin()
        self._objects: list[dict[str, Any]] = []  # of JSON lines, whose types are known at the end alone
        self._lines: list[int | None] = []
        self._file: Any = None

    def write_batch(self, rows: Rows, labels: list[Any], probabilities: np.ndarray) -> None:
        import pyarrow as pa

        added = self.added(labels, probabilities)
        if self.stream.is_json and self.shape.keep_columns:
            columns = {name: plain_list(values) for name, values in added.items()}
            for i in range(len(labels)):
                own = {name: values[i] for name, values in columns.items()}
                values = self.input_values(rows, i)
                check_free(values, own, rows, i)
                self._objects.append(values | own)
                self._lines.append(None if rows.lines is None else rows.lines[i])
            return
        if rows.table is not None and self.shape.keep_columns:
            table = rows.table
        else:
            kept = [self.input_values(rows, i) for i in range(len(labels))]
            table = pa.table(
                {name: pa.array([row[name] for row in kept], pa.string()) for name in self.input_columns()}
            )
        for name, values in added.items():
            table = table.append_column(name, pa.array(plain_list(values), self._type_of(name, values)))
        self._write_table(table)

    def end(self) -> None:
        import pyarrow as pa

        super().end()
        if self._objects:
            names = dict.fromkeys(name for row in self._objects for name in row)
            try:
                table = pa.table({name: [row.get(name) for row in self._objects] for name in names})
            except pa.ArrowException as error:
                raise DataError(
                    f"the values of a column are of several types, which a Parquet file can't hold ({error}); "
                    "say --format jsonl, or --no-keep-columns."
                ) from error
            except UnicodeEncodeError as error:
                row = next(i for i, values in enumerate(self._objects) if not is_unicode(values))
                raise no_unicode(self._lines[row], row) from error
            self._write_table(table)
        if self._file is None:
            schema = self.stream.schema if self.shape.keep_columns else None
            if schema is None:
                schema = pa.schema([(name, pa.string()) for name in self.input_columns()])
            table = schema.empty_table()
            for name, values in self.added([], no_rows(len(self.classifier.classes_))).items():
                table = table.append_column(name, pa.array([], self._type_of(name, values)))
            self._write_table(table)
        self._file.close()

    def _write_table(self, table: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._file is None:
                self._file = pq.ParquetWriter(self.file, table.schema)
            self._file.write_table(table.cast(self._file.schema))
        except pa.ArrowException as error:
            raise DataError(
                f"a Parquet file can't hold a column ({error}); say --format jsonl, or --no-keep-columns."
            ) from error

    def _type_of(self, name: str, values: Sequence[Any]) -> Any:
        """Arrow's type of a column of predictions: probabilities are numbers, labels as the classes are."""
        import pyarrow as pa

        own = original_name(name)
        if own.startswith("prob"):
            return pa.float64()
        if own == "abstained":
            return pa.string()
        label = pa.array(self.classifier.classes_).type
        return pa.list_(label) if own == "labels" else label
