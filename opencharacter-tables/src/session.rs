//! How SQL is understood here.

use std::ops::ControlFlow;

use datafusion::{
    common::DataFusionError,
    prelude::{SessionConfig, SessionContext},
    sql::{
        parser::{DFParser, Statement},
        sqlparser::ast::{Expr, Visit, Visitor},
    },
};

/// Parts of an expression within each other, at most: each takes up stack wherever a plan is walked or evaluated.
const DEEPEST: usize = 300;
/// Bytes of SQL.
const LONGEST_SQL: usize = 1 << 20;
/// Bytes of stack for parsing that much SQL, however deep it goes, and for dropping it again.
const PARSING_STACK: usize = 256 << 20;

/// Names are taken as they are written: columns of JSON files differ in case, and quotes around them are easily forgotten.
pub(crate) fn config() -> SessionConfig {
    SessionConfig::new()
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        .with_information_schema(false)
}

/// A session that plans conditions and runs nothing.
pub(crate) fn planner() -> SessionContext {
    SessionContext::new_with_config(config())
}

/// The columns that a condition speaks of.
///
/// # Errors
/// It is no expression, or too long or too deep to be planned.
pub(crate) fn columns_in_condition(condition: &str) -> Result<Vec<String>, DataFusionError> {
    let names = with_room_for(condition, || {
        let state = planner().state();
        let dialect = state.config().options().sql_parser.dialect;
        names_in(&state.sql_to_expr(condition, &dialect)?)
    })?;
    // The first part is the column, the others are parts of it.
    Ok(names.into_iter().filter_map(|parts| parts.into_iter().next()).collect())
}

/// Every name that stands in the expressions of a query: of columns, tables and aliases.
///
/// # Errors
/// It is no SQL, or too long or too deep to be planned.
pub(crate) fn names_in_query(sql: &str) -> Result<Vec<String>, DataFusionError> {
    let names = with_room_for(sql, || {
        let mut names = Vec::new();
        for statement in DFParser::parse_sql(sql)? {
            if let Statement::Statement(statement) = statement {
                names.extend(names_in(&statement)?);
            }
        }
        Ok(names)
    })?;
    Ok(names.into_iter().flatten().collect())
}

fn with_room_for<T>(sql: &str, parse: impl FnOnce() -> Result<T, DataFusionError>) -> Result<T, DataFusionError> {
    if sql.len() > LONGEST_SQL {
        return Err(DataFusionError::Plan(format!("longer than {LONGEST_SQL} bytes")));
    }
    stacker::grow(PARSING_STACK, parse)
}

fn names_in(parsed: &impl Visit) -> Result<Vec<Vec<String>>, DataFusionError> {
    let mut names = Names::default();
    if parsed.visit(&mut names).is_break() {
        return Err(DataFusionError::Plan(format!(
            "more than {DEEPEST} parts within each other; write a long list of alternatives as `x IN (...)`"
        )));
    }
    Ok(names.found)
}

#[derive(Default)]
struct Names {
    found: Vec<Vec<String>>,
    depth: usize,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Identifier(name) => self.found.push(vec![name.value.clone()]),
            Expr::CompoundIdentifier(parts) => {
                self.found.push(parts.iter().map(|name| name.value.clone()).collect());
            }
            _ => {}
        }
        self.depth += 1;
        if self.depth > DEEPEST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_expr(&mut self, _expression: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// What went wrong, without the layers that it came through.
pub(crate) fn message(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
