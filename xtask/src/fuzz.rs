//! Fuzzing with libFuzzer, which comes as a crate.
//!
//! `cargo fuzz` would need a nightly compiler for its address sanitizer. There is no unsafe code in what is fuzzed, so
//! coverage is what counts here, and the stable compiler has it.

use std::fs;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, run};

/// The workspace of the targets.
pub const MANIFEST: &str = "fuzz/Cargo.toml";

/// Each target, and a folder of files to begin with.
const TARGETS: [(&str, &str); 4] = [
    ("card", "opencharacter-card/tests/cards"),
    ("png", "opencharacter-card/tests/bad_input"),
    ("charx", "opencharacter-card/tests/bad_input"),
    ("request", "benchsuite/clients"),
];

/// What libFuzzer needs to see of a program: which edges it takes, and what it compares.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1";

/// With a target named, programs that run while compiling are built without the instruments.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Builds all targets and runs each for so long; stops at the first input that breaks one, and says where it is kept.
pub fn run_all(workspace: &Workspace, seconds: u32) -> Result<()> {
    let folder = workspace.target_path("fuzz");
    let mut build = workspace.cargo_command(&["build", "--release", "--target", PLATFORM, "--manifest-path", MANIFEST]);
    run(build.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", COVERAGE))?;
    for (target, seeds) in TARGETS {
        let found = folder.join("corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make `{}`", found.display()))?;
        let mut fuzz = workspace.command(folder.join(PLATFORM).join("release").join(target));
        // An input may not take seconds, nor a gigabyte: a card is small.
        fuzz.arg(format!("-max_total_time={seconds}")).args([
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ]);
        fuzz.arg(format!("-artifact_prefix={}/{target}-", folder.display()));
        run(fuzz.arg(found).arg(workspace.path(seeds)))?;
    }
    Ok(())
}
