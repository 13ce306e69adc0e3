use serde_json::{Map, Value};

use crate::kind::{Column, Kind, describe};

/// An object with more different keys than this has data for keys: it is kept as JSON text.
const MOST_FIELDS: usize = 512;

/// What the values of a file's columns are, found row by row in memory that does not grow with the rows.
#[derive(Debug, Default)]
pub(crate) struct Inference {
    columns: Parts<Top>,
    row: usize,
}

/// A column whose values are of kinds that do not go together.
#[derive(Debug, Clone)]
pub(crate) struct Conflict {
    pub path: String,
    pub expected: String,
    pub found: String,
    pub row: usize,
}

/// A column as the rows show it.
#[derive(Debug, Clone)]
pub(crate) struct InferredColumn {
    pub name: String,
    pub kind: Result<Kind, Conflict>,
}

#[derive(Debug, Default)]
struct Top {
    seen: Seen,
    conflict: Option<Conflict>,
}

#[derive(Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    Boolean,
    /// `negative`: below 0; `large`: above the largest signed number.
    Integer {
        negative: bool,
        large: bool,
    },
    Float,
    Text,
    List(Box<Seen>),
    Struct(Parts<Seen>),
    /// An object with too many different keys.
    Wide,
}

impl Inference {
    /// Takes a row into account.
    ///
    /// # Errors
    /// The row has more columns than a table can have.
    pub(crate) fn add(&mut self, number: usize, row: &Map<String, Value>) -> Result<(), String> {
        self.row = number;
        for (position, (name, value)) in row.iter().enumerate() {
            let Some(top) = self.columns.get(position, name) else {
                return Err(format!("more than {MOST_FIELDS} different columns; `{name}` is one too many"));
            };
            if top.conflict.is_none() {
                top.conflict = top.seen.add(value).err().map(|mut conflict| {
                    conflict.path.insert_str(0, name);
                    conflict.row = number;
                    conflict
                });
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Vec<InferredColumn> {
        let named = |(name, top): (String, Top)| {
            let kind = top.conflict.map_or_else(|| Ok(top.seen.kind()), Err);
            InferredColumn { name, kind }
        };
        self.columns.0.into_iter().map(named).collect()
    }
}

impl Seen {
    fn add(&mut self, value: &Value) -> Result<(), Conflict> {
        match (&mut *self, value) {
            (_, Value::Null)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Float, Value::Number(_))
            | (Self::Text, Value::String(_))
            | (Self::Wide, Value::Object(_)) => {}
            (Self::Integer { .. }, Value::Number(number)) if number.is_f64() => *self = Self::Float,
            (Self::Integer { negative, large }, Value::Number(number)) => {
                *negative |= number.as_i64().is_some_and(i64::is_negative);
                *large |= !number.is_i64();
            }
            (Self::List(item), Value::Array(values)) => {
                for value in values {
                    item.add(value).map_err(|conflict| conflict.below("[]"))?;
                }
            }
            (Self::Struct(parts), Value::Object(fields)) => {
                for (position, (name, value)) in fields.iter().enumerate() {
                    let Some(part) = parts.get(position, name) else {
                        *self = Self::Wide;
                        break;
                    };
                    part.add(value).map_err(|conflict| conflict.below(&format!(".{name}")))?;
                }
            }
            (Self::Nothing, value) => {
                *self = Self::empty_for(value);
                self.add(value)?;
            }
            (seen, value) => {
                return Err(Conflict {
                    path: String::new(),
                    expected: format!("{} as in the rows before", seen.name()),
                    found: describe(value).to_owned(),
                    row: 0,
                });
            }
        }
        Ok(())
    }

    fn empty_for(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_f64() => Self::Float,
            Value::Number(_) => Self::Integer { negative: false, large: false },
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::List(Box::default()),
            Value::Object(_) => Self::Struct(Parts::default()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Boolean => "true or false",
            Self::Integer { .. } => "a whole number",
            Self::Float => "a number",
            Self::Text => "text",
            Self::List(_) => "a list",
            Self::Struct(_) | Self::Wide => "an object",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Nothing => Kind::Null,
            Self::Boolean => Kind::Boolean,
            Self::Integer { large: false, .. } => Kind::Integer,
            Self::Integer { negative: false, .. } => Kind::Unsigned,
            Self::Integer { .. } | Self::Float => Kind::Float,
            Self::Text => Kind::Text,
            Self::List(item) => item.kind().listed(),
            // Parquet knows no object without parts.
            Self::Struct(parts) if parts.0.is_empty() => Kind::Json,
            Self::Struct(parts) => {
                Kind::Struct(parts.0.into_iter().map(|(name, seen)| Column::new(name, seen.kind())).collect())
            }
            Self::Wide => Kind::Json,
        }
    }
}

impl Conflict {
    fn below(mut self, part: &str) -> Self {
        self.path.insert_str(0, part);
        self
    }
}

/// What is known by name, in order of appearance.
#[derive(Debug)]
struct Parts<T>(Vec<(String, T)>);

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Default> Parts<T> {
    /// What is called `name`, new if need be; `None` when there are too many. Rows mostly have their fields in the same
    /// order, so `position` is looked at first.
    fn get(&mut self, position: usize, name: &str) -> Option<&mut T> {
        let found = match self.0.get(position) {
            Some((known, _)) if known == name => Some(position),
            _ => self.0.iter().position(|(known, _)| known == name),
        };
        let index = match found {
            Some(index) => index,
            None if self.0.len() == MOST_FIELDS => return None,
            None => {
                self.0.push((name.to_owned(), T::default()));
                self.0.len() - 1
            }
        };
        self.0.get_mut(index).map(|(_, part)| part)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn infer(rows: &[Value]) -> Vec<InferredColumn> {
        let mut inference = Inference::default();
        for (index, row) in rows.iter().enumerate() {
            inference.add(index + 1, row.as_object().unwrap()).unwrap();
        }
        inference.finish()
    }

    #[test]
    fn kinds_are_the_narrowest_that_hold_every_value() {
        let cases = [
            (vec![json!(null), json!(null)], Kind::Null),
            (vec![json!(null), json!(true)], Kind::Boolean),
            (vec![json!(1), json!(-2)], Kind::Integer),
            (vec![json!(1), json!(u64::MAX)], Kind::Unsigned),
            (vec![json!(-1), json!(u64::MAX)], Kind::Float),
            (vec![json!(1), json!(0.5), json!(2)], Kind::Float),
            (vec![json!([]), json!(["a"])], Kind::Text.listed()),
            (vec![json!({}), json!({})], Kind::Json),
            (
                vec![json!({"a": 1}), json!({"b": "x", "a": null})],
                Kind::Struct(vec![Column::new("a", Kind::Integer), Column::new("b", Kind::Text)]),
            ),
        ];
        for (values, expected) in cases {
            let rows: Vec<Value> = values.iter().map(|value| json!({ "x": value })).collect();
            assert_eq!(infer(&rows)[0].kind.as_ref().unwrap(), &expected, "{values:?}");
        }
    }

    #[test]
    fn an_object_with_data_for_keys_takes_bounded_memory() {
        let rows: Vec<Value> =
            (0..2 * MOST_FIELDS).map(|index| json!({"counts": {format!("word {index}"): 1}})).collect();
        assert_eq!(infer(&rows)[0].kind.as_ref().unwrap(), &Kind::Json);
    }

    #[test]
    fn a_conflict_names_path_row_and_both_kinds() {
        let rows = [json!({"m": [{"c": "x"}]}), json!({"m": [{"c": "y"}, {"c": ["z"]}]}), json!({"m": 3})];
        let conflict = infer(&rows).remove(0).kind.unwrap_err();
        assert_eq!(
            (conflict.path.as_str(), conflict.row, conflict.found.as_str(), conflict.expected.as_str()),
            ("m[].c", 2, "a list", "text as in the rows before")
        );
    }
}
