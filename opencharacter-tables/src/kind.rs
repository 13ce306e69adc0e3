use std::{collections::HashMap, fmt, sync::Arc};

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde_json::Value;

/// Metadata of an Arrow field whose text is JSON. Other readers see plain text, which is why it is not the canonical
/// extension type `arrow.json`: not every reader of Parquet files knows that.
const CONTENT: (&str, &str) = ("opencharacter:content", "json");

/// What a column holds. Every column may lack a value in some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Never anything.
    Null,
    /// True or false.
    Boolean,
    /// A whole number of 64 bits with a sign.
    Integer,
    /// A whole number of 64 bits without a sign.
    Unsigned,
    /// A number of double precision.
    Float,
    /// Text.
    Text,
    /// Any JSON, kept as text: what has no one shape, such as an object whose keys are data.
    Json,
    /// Several of one kind.
    List(Box<Kind>),
    /// Named parts, at least one.
    Struct(Vec<Column>),
}

/// A column of a table, or a part of a struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

impl Column {
    /// A column called `name`.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }

    pub(crate) fn to_field(&self) -> Field {
        let field = Field::new(&self.name, self.kind.data_type(), true);
        if self.kind == Kind::Json {
            return field.with_metadata(HashMap::from([(CONTENT.0.into(), CONTENT.1.into())]));
        }
        field
    }
}

impl Kind {
    /// A list of these.
    #[must_use]
    pub fn listed(self) -> Self {
        Self::List(Box::new(self))
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Null => DataType::Null,
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Unsigned => DataType::UInt64,
            Self::Float => DataType::Float64,
            Self::Text | Self::Json => DataType::Utf8,
            Self::List(kind) => DataType::List(Arc::new(Column::new("item", (**kind).clone()).to_field())),
            Self::Struct(parts) => DataType::Struct(fields_of(parts)),
        }
    }

    /// What the rows hold of an Arrow field: dates and the like are given as text.
    pub(crate) fn of_field(field: &Field) -> Self {
        match field.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean,
            DataType::UInt64 => Self::Unsigned,
            other if other.is_integer() => Self::Integer,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Self::Float,
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::ListView(item)
            | DataType::LargeListView(item)
            | DataType::FixedSizeList(item, _) => Self::of_field(item).listed(),
            DataType::Struct(parts) if !parts.is_empty() => Self::Struct(columns_of(parts)),
            DataType::Struct(_) | DataType::Map(..) => Self::Json,
            DataType::Dictionary(_, values) => Self::of_field(&Field::new("", (**values).clone(), true)),
            _ if is_json(field) => Self::Json,
            _ => Self::Text,
        }
    }
}

/// Whether the field's text is JSON.
pub(crate) fn is_json(field: &Field) -> bool {
    field.metadata().get(CONTENT.0).is_some_and(|content| content == CONTENT.1)
}

pub(crate) fn fields_of(columns: &[Column]) -> Fields {
    columns.iter().map(Column::to_field).collect()
}

pub(crate) fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(fields_of(columns)))
}

pub(crate) fn columns_of(fields: &Fields) -> Vec<Column> {
    fields.iter().map(|field| Column::new(field.name(), Kind::of_field(field))).collect()
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("nothing but null"),
            Self::Boolean => formatter.write_str("true or false"),
            Self::Integer => formatter.write_str("a whole number"),
            Self::Unsigned => formatter.write_str("a whole number from 0"),
            Self::Float => formatter.write_str("a number"),
            Self::Text => formatter.write_str("text"),
            Self::Json => formatter.write_str("any JSON"),
            Self::List(kind) => write!(formatter, "a list (of {kind})"),
            Self::Struct(parts) => {
                let names: Vec<String> = parts.iter().map(|part| format!("`{}`", part.name)).collect();
                write!(formatter, "an object (of {})", names.join(", "))
            }
        }
    }
}

/// What `value` is, for a message.
pub(crate) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "a whole number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
