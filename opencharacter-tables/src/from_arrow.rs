//! Arrow arrays as JSON values.

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{
        DataType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::{Map, Value};

use crate::kind::is_json;

/// The rows of `batch` as objects. What is null is left out; dates, decimals, bytes and the like are text; numbers that
/// JSON does not know (infinities, not-a-number) are null.
pub(crate) fn rows_of(batch: &RecordBatch) -> Result<Vec<Value>, ArrowError> {
    let mut rows = vec![Map::new(); batch.num_rows()];
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        for (row, value) in rows.iter_mut().zip(values_of(field, array)?) {
            if let Some(value) = value {
                row.insert(field.name().clone(), value);
            }
        }
    }
    Ok(rows.into_iter().map(Value::Object).collect())
}

type Values = Vec<Option<Value>>;

fn values_of(field: &Field, array: &ArrayRef) -> Result<Values, ArrowError> {
    macro_rules! numbers {
        ($type:ty) => {
            array.as_primitive::<$type>().iter().map(|number| number.map(Value::from)).collect()
        };
    }
    Ok(match array.data_type() {
        DataType::Null => vec![None; array.len()],
        DataType::Boolean => array.as_boolean().iter().map(|value| value.map(Value::Bool)).collect(),
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Float16 => floats(array.as_primitive::<Float16Type>().iter().map(|half| half.map(f64::from))),
        DataType::Float32 => floats(array.as_primitive::<Float32Type>().iter().map(|float| float.map(shortest))),
        DataType::Float64 => floats(array.as_primitive::<Float64Type>().iter()),
        DataType::Utf8 => texts(field, array.as_string::<i32>().iter())?,
        DataType::LargeUtf8 => texts(field, array.as_string::<i64>().iter())?,
        DataType::Utf8View => texts(field, array.as_string_view().iter())?,
        DataType::List(item) => lists(item, array)?,
        DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            let lists = cast(array, &DataType::List(item.clone()))?;
            values_of(field, &lists)?
        }
        DataType::Struct(_) => structs(array)?,
        DataType::Map(..) => maps(array)?,
        DataType::Dictionary(_, values) => values_of(field, &cast(array, values)?)?,
        DataType::RunEndEncoded(_, values) => values_of(field, &cast(array, values.data_type())?)?,
        _ => formatted(array)?,
    })
}

fn floats(numbers: impl Iterator<Item = Option<f64>>) -> Values {
    numbers.map(|number| number.and_then(serde_json::Number::from_f64).map(Value::Number)).collect()
}

/// The double with the same shortest decimal form, so that 0.1 stays 0.1.
fn shortest(float: f32) -> f64 {
    float.to_string().parse().unwrap_or_else(|_| f64::from(float))
}

fn texts<'a>(field: &Field, texts: impl Iterator<Item = Option<&'a str>>) -> Result<Values, ArrowError> {
    if !is_json(field) {
        return Ok(texts.map(|text| text.map(Value::from)).collect());
    }
    let parse = |text: &str| {
        serde_json::from_str(text)
            .map_err(|error| ArrowError::JsonError(format!("column `{}` is not valid JSON: {error}", field.name())))
    };
    texts.map(|text| text.map(parse).transpose()).collect()
}

/// Cuts the values of all lists into one vector per list.
fn lists(item: &Field, array: &ArrayRef) -> Result<Values, ArrowError> {
    let lists = array.as_list::<i32>();
    let offsets = lists.value_offsets();
    let (first, last) = (offsets[0] as usize, offsets[lists.len()] as usize);
    let mut items = values_of(item, &lists.values().slice(first, last - first))?.into_iter();
    let mut taken = first;
    let mut values = Vec::with_capacity(lists.len());
    for index in 0..lists.len() {
        let (start, end) = (offsets[index] as usize, offsets[index + 1] as usize);
        // A list that is null may still cover items.
        items.by_ref().take(start - taken).for_each(drop);
        let list: Vec<Value> = items.by_ref().take(end - start).map(Option::unwrap_or_default).collect();
        taken = end;
        values.push(lists.is_valid(index).then_some(Value::Array(list)));
    }
    Ok(values)
}

fn structs(array: &ArrayRef) -> Result<Values, ArrowError> {
    let structs = array.as_struct();
    let mut objects = vec![Map::new(); structs.len()];
    for (field, part) in structs.fields().iter().zip(structs.columns()) {
        for (object, value) in objects.iter_mut().zip(values_of(field, part)?) {
            if let Some(value) = value {
                object.insert(field.name().clone(), value);
            }
        }
    }
    let valid = |index| structs.is_valid(index);
    Ok(objects.into_iter().enumerate().map(|(index, object)| valid(index).then_some(Value::Object(object))).collect())
}

/// A map is an object; keys that are no text are written as text.
fn maps(array: &ArrayRef) -> Result<Values, ArrowError> {
    let maps = array.as_map();
    let entries: &ArrayRef = &(std::sync::Arc::new(maps.entries().clone()) as ArrayRef);
    let parts = entries.as_struct();
    let keys = formatted(parts.column(0))?;
    let values = values_of(&parts.fields()[1], parts.column(1))?;
    let object = |index: usize| {
        let (start, end) = (maps.value_offsets()[index] as usize, maps.value_offsets()[index + 1] as usize);
        let pairs = keys[start..end].iter().zip(&values[start..end]);
        let fields = pairs.filter_map(|(key, value)| Some((key.as_ref()?.as_str()?.to_owned(), value.clone()?)));
        Value::Object(fields.collect())
    };
    Ok((0..maps.len()).map(|index| maps.is_valid(index).then(|| object(index))).collect())
}

fn formatted(array: &ArrayRef) -> Result<Values, ArrowError> {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())?;
    let text = |index| formatter.value(index).try_to_string().map(Value::String);
    (0..array.len()).map(|index| array.is_valid(index).then(|| text(index)).transpose()).collect()
}
