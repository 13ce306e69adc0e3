//! Rows as Arrow arrays, each value checked against its column.

use std::sync::Arc;

use datafusion::arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, NullArray, RecordBatch, RecordBatchOptions,
        StringArray, StructArray, UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::SchemaRef,
};
use serde_json::Value;

use crate::kind::{Column, Kind, describe, fields_of, schema_of};

/// A value that is not what its column holds.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub path: String,
    pub fault: Fault,
    /// Which of the rows, from 0.
    pub index: usize,
}

#[derive(Debug)]
pub(crate) enum Fault {
    /// The value is of another kind.
    Kind { expected: String, found: String },
    /// There is no such column or part of a struct.
    Unknown,
}

/// A value, or none, and the row that it belongs to.
#[derive(Clone, Copy)]
struct Cell<'a> {
    row: usize,
    value: Option<&'a Value>,
}

/// `rows` as a batch of `columns`; fields of other names are left alone.
pub(crate) fn batch_of(columns: &[Column], schema: SchemaRef, rows: &[&Value]) -> Result<RecordBatch, Mismatch> {
    let arrays: Result<Vec<ArrayRef>, Mismatch> = columns
        .iter()
        .map(|column| {
            let cells: Vec<Cell> =
                rows.iter().enumerate().map(|(row, value)| Cell { row, value: part(value, &column.name) }).collect();
            array_of(&column.kind, &cells).map_err(|mismatch| mismatch.below(&column.name))
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema, arrays?, &options).map_err(|error| Mismatch {
        path: String::new(),
        fault: Fault::Kind { expected: "columns that fit together".into(), found: error.to_string() },
        index: 0,
    })
}

/// [`batch_of`], where a field that is no column is a mismatch.
pub(crate) fn whole_batch_of(columns: &[Column], rows: &[&Value]) -> Result<RecordBatch, Mismatch> {
    for (index, row) in rows.iter().enumerate() {
        if let Some(path) = unknown_part(columns, row) {
            return Err(Mismatch { path: path.to_owned(), fault: Fault::Unknown, index });
        }
    }
    batch_of(columns, schema_of(columns), rows)
}

fn part<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| !value.is_null())
}

fn unknown_part<'a>(columns: &[Column], value: &'a Value) -> Option<&'a str> {
    let fields = value.as_object()?;
    let known = |(position, name): (usize, &str)| {
        columns.get(position).is_some_and(|column| column.name == name)
            || columns.iter().any(|column| column.name == name)
    };
    fields.keys().enumerate().find(|(position, name)| !known((*position, name.as_str()))).map(|(_, name)| name.as_str())
}

fn array_of(kind: &Kind, cells: &[Cell<'_>]) -> Result<ArrayRef, Mismatch> {
    Ok(match kind {
        Kind::Null => {
            scalars(kind, cells, |_| None::<()>)?;
            Arc::new(NullArray::new(cells.len()))
        }
        Kind::Boolean => Arc::new(BooleanArray::from(scalars(kind, cells, Value::as_bool)?)),
        Kind::Integer => Arc::new(Int64Array::from(scalars(kind, cells, Value::as_i64)?)),
        Kind::Unsigned => Arc::new(UInt64Array::from(scalars(kind, cells, Value::as_u64)?)),
        Kind::Float => Arc::new(Float64Array::from(scalars(kind, cells, exact_float)?)),
        Kind::Text => Arc::new(StringArray::from(scalars(kind, cells, Value::as_str)?)),
        Kind::Json => Arc::new(StringArray::from(scalars(kind, cells, |value| Some(value.to_string()))?)),
        Kind::List(item) => Arc::new(list_of(kind, item, cells)?),
        Kind::Struct(parts) => Arc::new(struct_of(kind, parts, cells)?),
    })
}

fn scalars<'a, T>(
    kind: &Kind,
    cells: &[Cell<'a>],
    convert: impl Fn(&'a Value) -> Option<T>,
) -> Result<Vec<Option<T>>, Mismatch> {
    cells
        .iter()
        .map(|cell| cell.value.map(|value| convert(value).ok_or_else(|| mismatch(kind, value, cell.row))).transpose())
        .collect()
}

/// A number that double precision holds without loss.
fn exact_float(value: &Value) -> Option<f64> {
    const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
    let Value::Number(number) = value else { return None };
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => (number.unsigned_abs() <= EXACT).then_some(number as f64),
        (None, Some(_)) => None,
        (None, None) => number.as_f64(),
    }
}

fn list_of(kind: &Kind, item: &Kind, cells: &[Cell<'_>]) -> Result<ListArray, Mismatch> {
    let lists = scalars(kind, cells, Value::as_array)?;
    let lengths = lists.iter().map(|list| list.map_or(0, Vec::len));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let valid: NullBuffer = lists.iter().map(Option::is_some).collect();
    let items: Vec<Cell> = lists
        .iter()
        .zip(cells)
        .filter_map(|(list, cell)| list.map(|list| (list, cell.row)))
        .flat_map(|(list, row)| list.iter().map(move |value| Cell { row, value: Some(value).filter(|v| !v.is_null()) }))
        .collect();
    let values = array_of(item, &items).map_err(|mismatch| mismatch.below("[]"))?;
    let field = Arc::new(Column::new("item", item.clone()).to_field());
    Ok(ListArray::new(field, offsets, values, Some(valid)))
}

fn struct_of(kind: &Kind, parts: &[Column], cells: &[Cell<'_>]) -> Result<StructArray, Mismatch> {
    let objects = scalars(kind, cells, |value| value.is_object().then_some(value))?;
    for (object, cell) in objects.iter().zip(cells) {
        if let Some(name) = object.and_then(|object| unknown_part(parts, object)) {
            return Err(Mismatch { path: format!(".{name}"), fault: Fault::Unknown, index: cell.row });
        }
    }
    let arrays: Result<Vec<ArrayRef>, Mismatch> = parts
        .iter()
        .map(|column| {
            let inner: Vec<Cell> = objects
                .iter()
                .zip(cells)
                .map(|(object, cell)| Cell {
                    row: cell.row,
                    value: object.and_then(|object| part(object, &column.name)),
                })
                .collect();
            array_of(&column.kind, &inner).map_err(|mismatch| mismatch.below(&format!(".{}", column.name)))
        })
        .collect();
    let valid: NullBuffer = objects.iter().map(Option::is_some).collect();
    Ok(StructArray::new(fields_of(parts), arrays?, Some(valid)))
}

fn mismatch(kind: &Kind, value: &Value, index: usize) -> Mismatch {
    let mut found = describe(value).to_owned();
    if let Value::Number(number) = value {
        found = format!("{found} ({number})");
    }
    let expected = match kind {
        Kind::Float if value.is_number() => "a number that double precision holds exactly".to_owned(),
        kind => kind.to_string(),
    };
    Mismatch { path: String::new(), fault: Fault::Kind { expected, found }, index }
}

impl Mismatch {
    fn below(mut self, part: &str) -> Self {
        self.path.insert_str(0, part);
        self
    }
}
