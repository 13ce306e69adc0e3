//! A NATS server of one's own, on a free port of this machine and in a folder that goes with it.

use std::{
    io::{ErrorKind, Read as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub struct Server {
    port: u16,
    folder: TempDir,
    jetstream: bool,
    child: Option<Child>,
}

impl Server {
    pub fn start() -> Self {
        Self::new(true)
    }

    pub fn start_without_jetstream() -> Self {
        Self::new(false)
    }

    fn new(jetstream: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, folder, jetstream, child: None };
        server.start_again();
        server
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As a power switch would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn start_again(&mut self) {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.jetstream {
            command.arg("-js").arg("-sd").arg(self.store());
        }
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(started.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => {
                panic!("`nats-server` is not in PATH: `cargo xtask test` installs it, and so does `apt-get install nats-server`")
            }
            _ => panic!("`nats-server` cannot be started: {error}"),
        }));
        let start = Instant::now();
        while !self.greets() {
            assert!(start.elapsed() < Duration::from_secs(10), "`nats-server` does not answer on port {}", self.port);
            sleep(Duration::from_millis(10));
        }
    }

    /// Starts again with nothing of what it knew.
    pub fn start_again_empty(&mut self) {
        std::fs::remove_dir_all(self.store()).unwrap();
        self.start_again();
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn greets(&self) -> bool {
        let mut greeting = [0; 4];
        TcpStream::connect(("127.0.0.1", self.port))
            .and_then(|mut stream| stream.read_exact(&mut greeting))
            .is_ok_and(|()| greeting == *b"INFO")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
