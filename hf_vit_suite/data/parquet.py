"""Reads parquet files as every writer makes them: pyarrow, pandas, polars, `datasets`."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value

from .columns import IMAGE_COLUMNS, refuse_other_classes


def read_schema(path: str) -> pa.Schema:
    """The schema of a parquet file; as `read_metadata`."""
    return read_metadata(path).schema.to_arrow_schema()


def number_of_rows(path: str) -> int:
    """The number of rows of a parquet file; as `read_metadata`."""
    return read_metadata(path).num_rows


def read_metadata(path: str) -> pq.FileMetaData:
    """What a parquet file says of itself.

    Raises:
        ValueError: If the file can't be read.
    """
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read: {' '.join(str(error).split())}") from error


def holds_images(path: str, image_column: str | None) -> bool:
    """Whether a parquet file has a column of images: the named one, one of bytes, or one with a usual name."""
    schema = read_schema(path)
    if image_column is not None:
        return image_column in schema.names
    return any(field.name in IMAGE_COLUMNS or holds_bytes(field.type) for field in schema)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type is bytes, or a structure or list of them."""
    if pa.types.is_struct(kind):
        return any(holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return holds_bytes(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def common_features(splits: Mapping[str, Sequence[str]], source: str) -> Features:
    """The columns of all files with the types that hold the values of each.

    A column that is empty in one file, or whole numbers in one and decimals in another, has one type in the data set.

    Raises:
        ValueError: If files have types that don't go together, or declare other classes.
    """
    paths = [path for files in splits.values() for path in files]
    schemas = [read_schema(path) for path in paths]
    declared = [Features.from_arrow_schema(schema) if has_features(schema) else {} for schema in schemas]
    refuse_other_classes(dict(zip(paths, declared, strict=True)), source)
    try:
        plain = [pa.schema([pa.field(field.name, plain_type(field.type)) for field in schema]) for schema in schemas]
        unified = pa.unify_schemas(plain, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"--dataset {source}: the parquet files differ in their columns: {error}") from error
    features = Features.from_arrow_schema(unified)
    for known in declared:
        features |= {name: feature for name, feature in known.items() if not isinstance(feature, Value)}
    return Features(features)


def has_features(schema: pa.Schema) -> bool:
    """Whether `datasets` wrote a file."""
    return b"huggingface" in (schema.metadata or {})


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries and views, which `datasets` does not know."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    if "view" in str(kind):
        return pa.string() if "string" in str(kind) else pa.binary()
    return kind
