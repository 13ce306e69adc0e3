//! Running the program.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs the program with the words of `line` in `folder`, beside whatever the test's runtime does.
pub async fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencharacter"));
    command.current_dir(folder).args(line.split_whitespace()).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What it said on standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
