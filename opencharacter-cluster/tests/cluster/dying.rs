//! Workers, server and coordinator die in the middle of a job, which ends as if nothing had happened.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::support::{job, mock::Mock, process::Process, server::Server};

const ITEMS: usize = 300;
const WORKERS: usize = 3;
const CONCURRENCY: usize = 4;
const IN_FLIGHT: usize = 32;
const LATENCY_MS: u64 = 60;

#[test]
fn the_job_ends_as_on_one_machine_whoever_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (log, ledger, rows) = (folder.path().join("log"), folder.path().join("ledger"), folder.path().join("rows"));
    let mut server = Server::start();
    let mut workers: Vec<Process> =
        (0..WORKERS).map(|_| Process::worker(&server.url(), &log, LATENCY_MS, CONCURRENCY)).collect();
    let url = server.url();
    let start = || Process::coordinator(&url, &ledger, ITEMS, IN_FLIGHT, &rows);
    let mut coordinator = start();

    wait("80 calls", || Calls::read(&log).done() >= 80);
    workers[0].kill();

    wait("160 calls", || Calls::read(&log).done() >= 160);
    server.kill();
    sleep(Duration::from_millis(700));
    server.start_again();

    wait("240 calls", || Calls::read(&log).done() >= 240);
    coordinator.kill();
    // Calls under way are finished, and no other begins: nobody would have it.
    sleep(Duration::from_millis(2 * LATENCY_MS + 200));
    let after_killing = Calls::read(&log);
    sleep(Duration::from_millis(700));
    assert_eq!(Calls::read(&log).begun(), after_killing.begun(), "calls began that nobody waits for");

    let mut coordinator = start();
    wait("the coordinator's end", || coordinator.ended().is_some());
    assert_eq!(coordinator.ended(), Some(true));

    let (alone, calls_alone) = on_one_machine(folder.path());
    assert_eq!(fs::read_to_string(&rows).unwrap(), alone.join("\n"));

    let calls = Calls::read(&log);
    assert_eq!(calls.0.len(), calls_alone, "calls that differ");
    assert!(calls.done() > after_killing.done(), "the job was done before the coordinator was killed");
    let (repeated, answered_twice) = (calls.begun() - calls.0.len(), calls.done() - calls.0.len());
    println!("{} calls, {repeated} begun twice, {answered_twice} answered twice", calls.0.len());
    assert!(repeated <= WORKERS * CONCURRENCY, "{repeated} calls were repeated");
}

#[test]
fn a_server_that_lost_its_disk_is_given_the_work_again() {
    let folder = tempfile::tempdir().unwrap();
    let (log, ledger, rows) = (folder.path().join("log"), folder.path().join("ledger"), folder.path().join("rows"));
    let mut server = Server::start();
    let _worker = Process::worker(&server.url(), &log, LATENCY_MS, CONCURRENCY);
    let mut coordinator = Process::coordinator(&server.url(), &ledger, 40, IN_FLIGHT, &rows);
    wait("10 calls", || Calls::read(&log).done() >= 10);
    server.kill();
    server.start_again_empty();
    wait("the coordinator's end", || coordinator.ended().is_some());
    assert_eq!(coordinator.ended(), Some(true));
    let calls = Calls::read(&log);
    assert!(calls.begun() - calls.0.len() <= CONCURRENCY, "{} of {}", calls.begun(), calls.0.len());
}

/// The rows of the same job with the model in this process, and how many calls it takes.
fn on_one_machine(folder: &Path) -> (Vec<String>, usize) {
    let log = folder.join("log-alone");
    let model = Mock::new(Duration::ZERO, 8).logging(&log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(job::work(&model, &folder.join("ledger-alone"), ITEMS)).unwrap();
    (rows, Calls::read(&log).0.len())
}

/// How often each call was begun and answered.
struct Calls(HashMap<String, (usize, usize)>);

impl Calls {
    fn read(log: &Path) -> Self {
        let mut calls: HashMap<String, (usize, usize)> = HashMap::new();
        for line in fs::read_to_string(log).unwrap_or_default().lines() {
            let (what, call) = line.split_once(' ').unwrap();
            let (begun, done) = calls.entry(call.to_owned()).or_default();
            *(if what == "begun" { begun } else { done }) += 1;
        }
        Self(calls)
    }

    fn begun(&self) -> usize {
        self.0.values().map(|(begun, _)| begun).sum()
    }

    fn done(&self) -> usize {
        self.0.values().map(|(_, done)| done).sum()
    }
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(40), "not within 40 s: {what}");
        sleep(Duration::from_millis(10));
    }
}
