use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures_util::{StreamExt, TryStreamExt, future, stream};
use serde_json::Value;

use crate::{
    Column, Table, TableError,
    kind::schema_of,
    parse::Parsed,
    to_arrow::{Fault, batch_of},
};

/// A file of text as a table of a query. Only the columns that the query needs become Arrow arrays.
#[derive(Debug)]
pub(crate) struct RowsProvider {
    scan: Scan,
}

#[derive(Clone)]
struct Scan {
    table: Table,
    columns: Vec<Column>,
    schema: SchemaRef,
}

impl RowsProvider {
    pub(crate) fn new(table: Table, columns: Vec<Column>) -> Self {
        let schema = schema_of(&columns);
        Self { scan: Scan { table, columns, schema } }
    }
}

#[async_trait]
impl TableProvider for RowsProvider {
    fn schema(&self) -> SchemaRef {
        self.scan.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let mut scan = self.scan.clone();
        if let Some(wanted) = projection {
            scan.columns = wanted.iter().map(|&index| self.scan.columns[index].clone()).collect();
            scan.schema = schema_of(&scan.columns);
        }
        let schema = scan.schema.clone();
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, None, false, limit)?;
        Ok(Arc::new(plan))
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let scan = self.clone();
        let batches = stream::once(async move {
            let parsed = scan.table.parsed().await?;
            Ok::<_, TableError>(parsed.and_then(move |rows| future::ready(scan.batch(&rows))))
        });
        let batches = batches.try_flatten().map_err(|error| DataFusionError::External(Box::new(error)));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches.boxed()))
    }
}

impl Scan {
    fn batch(&self, rows: &[Parsed]) -> Result<datafusion::arrow::array::RecordBatch, TableError> {
        let good: Result<Vec<&Value>, TableError> = rows
            .iter()
            .map(|(number, row)| {
                row.as_ref().map_err(|reason| TableError::Row {
                    location: self.table.location.clone(),
                    unit: self.table.format.unit(),
                    number: *number,
                    reason: reason.clone(),
                })
            })
            .collect();
        batch_of(&self.columns, self.schema.clone(), &good?).map_err(|mismatch| {
            let (expected, found) = match mismatch.fault {
                Fault::Kind { expected, found } => (expected, found),
                Fault::Unknown => ("the parts seen at first".into(), "another one".into()),
            };
            let row = rows.get(mismatch.index).map(|(number, _)| *number);
            TableError::Column { location: self.table.location.clone(), column: mismatch.path, expected, found, row }
        })
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scan").field("table", &self.table.location).finish_non_exhaustive()
    }
}
