//! Where the repository is, and how programs are started in it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The repository and the cargo that works on it.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Where cargo says that this package lies, not where it lay when it was compiled: checkouts may share a target
    /// directory.
    pub fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .context("`CARGO_MANIFEST_DIR` is not set: start this as `cargo xtask`")?;
        let root = Path::new(&package).parent().context("this package lies in no workspace")?.to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
            // Relative to where the caller is, whereas the programs started here run in the root.
            Some(target) => std::path::absolute(&target)
                .with_context(|| format!("`CARGO_TARGET_DIR` is no path: `{}`", target.display()))?,
            None => root.join("target"),
        };
        Ok(Self { root, target, cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()) })
    }

    /// A path from the repository's root.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A path in the target directory.
    pub fn target_path(&self, relative: &str) -> PathBuf {
        self.target.join(relative)
    }

    /// `program` in the repository's root.
    ///
    /// What cargo told this program of itself is not passed on. Build scripts watch such variables (ring's does): with
    /// them, everything above would be compiled anew for `cargo xtask test` after `cargo test`, and again after that.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        let of_this_program = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME"];
        for (name, _) in env::vars_os() {
            if of_this_program.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
    }

    /// cargo with `arguments`, not yet started.
    pub fn cargo_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.cargo);
        command.args(arguments);
        command
    }

    /// Runs cargo with `arguments`.
    pub fn cargo(&self, arguments: &[&str]) -> Result<()> {
        run(&mut self.cargo_command(arguments))
    }

    /// The Python of a virtual environment under the target directory, with what `requirements` names in it.
    pub fn python(&self, environment: &str, requirements: &Path) -> Result<PathBuf> {
        let environment = self.target_path(environment);
        run(self.command("python3").args(["-m", "venv"]).arg(&environment))?;
        let python = environment.join(if cfg!(windows) { "Scripts" } else { "bin" }).join("python");
        run(self.command(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
        Ok(python)
    }

    /// The verified embedded model, fetched where it is missing.
    pub fn fetch_model(&self) -> Result<PathBuf> {
        // The whole workspace, as the tests do: another selection of packages compiles the heavy dependencies again.
        self.cargo(&["build", "--release", "--workspace"])?;
        let mut program = self.command(self.target_path("release/opencharacter"));
        program.args(["model", "fetch"]);
        let printed = output(&mut program)?;
        let path = self.root.join(printed.trim());
        if !path.is_file() {
            bail!("`opencharacter model fetch` must print the model's path, it printed `{}`", printed.trim());
        }
        Ok(path)
    }
}

/// A program that ended badly.
#[derive(Debug)]
pub struct CommandFailed {
    line: String,
    status: ExitStatus,
}

impl CommandFailed {
    /// The program's exit code; 1 where a signal ended it.
    pub fn exit_code(&self) -> u8 {
        self.status.code().and_then(|code| u8::try_from(code).ok()).filter(|&code| code != 0).unwrap_or(1)
    }
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` failed ({})", self.line, self.status)
    }
}

impl std::error::Error for CommandFailed {}

/// Echoes `command`, runs it and waits for its end.
pub fn run(command: &mut Command) -> Result<()> {
    let line = echo(command);
    let status = command.status().with_context(|| format!("`{line}` cannot be started"))?;
    check(line, status)
}

/// As [`run`], and returns what `command` prints on standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = echo(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("`{line}` cannot be started"))?;
    let text = String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed invalid UTF-8"));
    check(line, output.status)?;
    text
}

fn check(line: String, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(CommandFailed { line, status }.into()) }
}

/// Prints the command as one line to standard error and returns that line.
fn echo(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    let line = std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ");
    eprintln!("$ {line}");
    line
}
