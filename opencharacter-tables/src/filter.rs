use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, RecordBatch},
        datatypes::{DataType, SchemaRef},
    },
    common::{DFSchema, DataFusionError},
    physical_expr::PhysicalExpr,
};
use serde_json::Value;

use crate::{
    Column, Table, TableError,
    infer::InferredColumn,
    kind::{columns_of, schema_of},
    parse::Parsed,
    session,
    to_arrow::batch_of,
};

/// A condition on the columns of one table.
pub(crate) struct Filter {
    text: String,
    expression: Arc<dyn PhysicalExpr>,
    /// The columns that it speaks of.
    columns: Vec<Column>,
    schema: SchemaRef,
}

impl Filter {
    /// A condition on a file of text, of which only the columns that it speaks of become Arrow arrays.
    pub(crate) fn new(text: &str, table: &Table, known: &[InferredColumn]) -> Result<Self, TableError> {
        let mut columns: Vec<Column> = Vec::new();
        for name in session::columns_in_condition(text).map_err(|error| fault(text, &error))? {
            let Some(column) = known.iter().find(|column| column.name == name) else {
                return Err(table.unknown_column(&name, known));
            };
            let kind = column.kind.clone().map_err(|conflict| table.conflict(conflict))?;
            if columns.iter().all(|column| column.name != name) {
                columns.push(Column::new(name, kind));
            }
        }
        let schema = schema_of(&columns);
        Self::planned(text, columns, schema)
    }

    /// A condition on batches of `schema`.
    pub(crate) fn on_schema(text: &str, table: &Table, schema: &SchemaRef) -> Result<Self, TableError> {
        let columns = columns_of(schema.fields());
        let unknown = session::columns_in_condition(text)
            .map_err(|error| fault(text, &error))?
            .into_iter()
            .find(|name| columns.iter().all(|column| column.name != *name));
        if let Some(name) = unknown {
            let known = columns.into_iter().map(|column| column.name).collect();
            return Err(TableError::UnknownColumn { location: table.location.clone(), column: name, known });
        }
        Self::planned(text, columns, schema.clone())
    }

    fn planned(text: &str, columns: Vec<Column>, schema: SchemaRef) -> Result<Self, TableError> {
        let plan = || -> Result<_, DataFusionError> {
            let context = session::planner();
            let qualified = DFSchema::try_from(schema.clone())?;
            let expression = context.parse_sql_expr(text, &qualified)?;
            let expression = context.create_physical_expr(expression, &qualified)?;
            let kind = expression.data_type(&schema)?;
            Ok((expression, kind))
        };
        let (expression, kind) = plan().map_err(|error| fault(text, &error))?;
        if !matches!(kind, DataType::Boolean | DataType::Null) {
            let reason = format!("it is no condition: its value is {kind}, not true or false");
            return Err(TableError::Filter { filter: text.to_owned(), reason });
        }
        Ok(Self { text: text.to_owned(), expression, columns, schema })
    }

    /// For which rows it is true.
    pub(crate) fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray, TableError> {
        let evaluate = || -> Result<BooleanArray, DataFusionError> {
            let array = self.expression.evaluate(batch)?.into_array(batch.num_rows())?;
            if array.data_type() == &DataType::Null {
                return Ok(BooleanArray::new_null(array.len()));
            }
            Ok(array.as_boolean().clone())
        };
        evaluate().map_err(|error| fault(&self.text, &error))
    }

    /// The rows for which it is true, and the bad ones, which are reported whatever the filter.
    pub(crate) fn keep(&self, table: &Table, rows: Vec<Parsed>) -> Result<Vec<Parsed>, TableError> {
        let good: Vec<&Value> = rows.iter().filter_map(|(_, row)| row.as_ref().ok()).collect();
        let batch = batch_of(&self.columns, self.schema.clone(), &good).map_err(|mismatch| {
            let reason = format!("column `{}` changed while the file was read", mismatch.path);
            table.damaged(reason)
        })?;
        let mask = self.mask(&batch)?;
        let mut kept = mask.iter().map(|kept| kept == Some(true));
        Ok(rows.into_iter().filter(|(_, row)| row.is_err() || kept.next() == Some(true)).collect())
    }
}

fn fault(text: &str, error: &DataFusionError) -> TableError {
    TableError::Filter { filter: text.to_owned(), reason: session::message(error) }
}
