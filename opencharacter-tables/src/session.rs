//! How SQL is understood here.

use std::ops::ControlFlow;

use datafusion::{
    common::DataFusionError,
    prelude::{SessionConfig, SessionContext},
    sql::{
        parser::{DFParser, Statement},
        sqlparser::ast::{Expr, visit_expressions},
    },
};

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
pub(crate) fn columns_in_condition(condition: &str) -> Result<Vec<String>, DataFusionError> {
    let state = planner().state();
    let dialect = state.config().options().sql_parser.dialect;
    let expression = state.sql_to_expr(condition, &dialect)?;
    let mut names = Vec::new();
    let _ = visit_expressions(&expression, |part| {
        match part {
            Expr::Identifier(name) => names.push(name.value.clone()),
            // The first part is the column, the others are parts of it.
            Expr::CompoundIdentifier(parts) => names.extend(parts.first().map(|name| name.value.clone())),
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(names)
}

/// Every name that stands in the expressions of a query: of columns, tables and aliases.
pub(crate) fn names_in_query(sql: &str) -> Result<Vec<String>, DataFusionError> {
    let mut names = Vec::new();
    for statement in DFParser::parse_sql(sql)? {
        let Statement::Statement(statement) = statement else { continue };
        let _ = visit_expressions(&statement, |part| {
            match part {
                Expr::Identifier(name) => names.push(name.value.clone()),
                Expr::CompoundIdentifier(parts) => names.extend(parts.iter().map(|name| name.value.clone())),
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
    }
    Ok(names)
}

/// What went wrong, without the layers that it came through.
pub(crate) fn message(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
