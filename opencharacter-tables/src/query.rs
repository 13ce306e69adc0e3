use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use datafusion::{
    arrow::array::RecordBatch,
    catalog::TableProvider,
    common::{DataFusionError, TableReference},
    datasource::{
        file_format::parquet::ParquetFormat,
        listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl},
    },
    execution::{
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::SessionContext,
};
use futures_util::{StreamExt, TryStreamExt, future, stream};
use url::Url;

use crate::{
    Column, Format, Kind, Row, Rows, Table, TableError, from_arrow::rows_of, panics::caught, place::Place,
    rows_provider::RowsProvider, session,
};

/// Memory that makes one more partition worth while, in bytes.
const PARTITION_MEMORY: usize = 128 << 20;

/// Below this, in bytes, batches are made smaller.
const SMALL_MEMORY: usize = 256 << 20;

/// What a query may use.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// Memory for sorting, joining and grouping, in bytes; what needs more is moved to disk.
    pub memory: usize,
    /// Where it is moved to; the system's folder for temporary files if not given.
    pub spill_folder: Option<PathBuf>,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self { memory: 512 << 20, spill_folder: None }
    }
}

/// The rows that a SELECT over `tables` gives, numbered from 1. The tables' files are only read.
///
/// Names of tables, columns and functions are written as they are, upper and lower case apart. A column whose values are
/// of kinds that do not go together is an error where the query names it, and JSON where it comes with `*`.
///
/// Joins are merge joins of sorted inputs: unlike hash joins they can move to disk.
///
/// # Errors
/// [`TableError::Query`] for anything but a SELECT, a mistake in it, or lack of memory; the errors of [`Table::rows`].
/// A bad row ends the query.
pub async fn query(sql: &str, tables: &[(&str, &Table)], options: QueryOptions) -> Result<Rows, TableError> {
    let names = session::names_in_query(sql).map_err(fault)?;
    let context = context(options)?;
    for (name, table) in tables {
        let provider = match table.format {
            Format::Parquet => parquet_provider(&context, table).await?,
            _ => text_provider(table, &names).await?,
        };
        context.register_table(TableReference::bare(*name), provider).map_err(fault)?;
    }
    let only_reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = context.sql_with_options(sql, only_reading).await.map_err(fault)?;
    let mut columns: Vec<&str> = frame.schema().fields().iter().map(|field| field.name().as_str()).collect();
    columns.sort_unstable();
    if let Some([twice, ..]) = columns.windows(2).find(|pair| matches!(pair, [first, second] if first == second)) {
        return Err(TableError::Query(format!("two columns are called `{twice}`; name one with AS")));
    }
    let batches = frame.execute_stream().await.map_err(fault)?.map_err(fault);
    let mut before = 0;
    let rows = caught(batches, TableError::Query).and_then(move |batch| {
        let first = before + 1;
        before += batch.num_rows();
        future::ready(numbered(&batch, first))
    });
    Ok(rows.map_ok(|rows| stream::iter(rows.into_iter().map(Ok))).try_flatten().boxed())
}

fn numbered(batch: &RecordBatch, first: usize) -> Result<Vec<Row>, TableError> {
    let values = rows_of(batch).map_err(|error| TableError::Query(error.to_string()))?;
    Ok((first..).zip(values).map(|(number, value)| Row { number, value }).collect())
}

fn context(options: QueryOptions) -> Result<SessionContext, TableError> {
    let mode = options
        .spill_folder
        .map_or(DiskManagerMode::OsTmpDirectory, |folder| DiskManagerMode::Directories(vec![folder]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(options.memory)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
        .build_arc()
        .map_err(fault)?;
    // Every sort of every partition has its own share of the memory: too many of them make the shares too small.
    // With one partition every join would be a hash join, which cannot move to disk.
    let most = (options.memory / PARTITION_MEMORY).clamp(2, 4);
    let partitions = std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, most);
    let config = session::config()
        .with_target_partitions(partitions)
        // What is merged holds a batch of each piece that was moved to disk, and nothing else may be left over for them.
        .with_batch_size(if options.memory < SMALL_MEMORY { 256 } else { 1024 })
        // Kept back from each sort so that it can merge what it moved to disk.
        .with_sort_spill_reservation_bytes((options.memory / (16 * partitions)).min(10 << 20))
        .set_bool("datafusion.optimizer.prefer_hash_join", false);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// A Parquet file is `DataFusion`'s own to scan: it leaves out row groups and columns that the query does not need.
async fn parquet_provider(context: &SessionContext, table: &Table) -> Result<Arc<dyn TableProvider>, TableError> {
    let url = match &table.place {
        Place::Local(path) => {
            let path = std::path::absolute(path).map_err(|source| table.unreadable(source))?;
            Url::from_file_path(path).map_err(|()| table.damaged("its path cannot be written as a URL".into()))?
        }
        Place::Remote { store, path } => {
            // Each table under a name of its own: two of them may have different stores.
            let name = format!("table-{}", context.catalog_names().len() + table_count(context));
            let mut url = Url::parse(&format!("store://{name}")).map_err(|error| table.damaged(error.to_string()))?;
            context.register_object_store(&url, store.clone());
            url.set_path(path.as_ref());
            url
        }
    };
    let provide = async || -> Result<Arc<dyn TableProvider>, DataFusionError> {
        let url = ListingTableUrl::try_new(url, None)?;
        // What our own writer says of columns is in the fields' metadata. Views of text keep whole buffers alive, which
        // counts against the memory.
        let format = ParquetFormat::default().with_skip_metadata(false).with_force_view_types(false);
        let listing = ListingOptions::new(Arc::new(format)).with_file_extension("");
        let schema = listing.infer_schema(&context.state(), &url).await?;
        let config = ListingTableConfig::new(url).with_listing_options(listing).with_schema(schema);
        let table: Arc<dyn TableProvider> = Arc::new(ListingTable::try_new(config)?);
        Ok(table)
    };
    // A clear message for a file that is missing or damaged.
    crate::parquet_file::ParquetFile::open(&table.place, &table.location).await?;
    provide().await.map_err(fault)
}

async fn text_provider(table: &Table, names: &[String]) -> Result<Arc<dyn TableProvider>, TableError> {
    let mut columns = Vec::new();
    for column in table.infer().await? {
        let kind = match column.kind {
            Err(conflict) if names.contains(&column.name) => return Err(table.conflict(conflict)),
            kind => kind.unwrap_or(Kind::Json),
        };
        columns.push(Column::new(column.name, kind));
    }
    Ok(Arc::new(RowsProvider::new(table.clone(), columns)))
}

fn table_count(context: &SessionContext) -> usize {
    let catalog = context.catalog("datafusion").and_then(|catalog| catalog.schema("public"));
    catalog.map_or(0, |schema| schema.table_names().len())
}

fn fault(error: DataFusionError) -> TableError {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<TableError>() {
            Ok(error) => *error,
            Err(other) => TableError::Query(other.to_string()),
        },
        DataFusionError::Context(_, inner) => fault(*inner),
        error if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) => {
            let message = session::message(&error);
            TableError::Query(format!("{message}; give it more memory, or free disk space to move data to"))
        }
        error => TableError::Query(session::message(&error)),
    }
}
