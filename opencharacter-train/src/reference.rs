//! The reference model's log-ratios, which preference training measures itself against.
//!
//! They are computed once, by the model as training starts from it, and kept in `reference.jsonl`: a line that names the
//! run, then one line per pair. A run that is killed in between goes on after the last whole line.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use opencharacter_nn::PackedBatch;
use serde::{Deserialize, Serialize};

use crate::{Job, TrainError, task::TaskData};

/// Log-ratios by place, of both sets of a task; empty where the task needs none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct References {
    pub(crate) train: Vec<f64>,
    pub(crate) held_out: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Set {
    Train,
    HeldOut,
}

#[derive(Serialize, Deserialize)]
struct Header {
    run: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    set: Set,
    place: usize,
    log_ratio: f64,
}

impl References {
    /// Reads what is known of `run` and computes the rest with `log_ratios`. `progress` is told how many of all pairs are
    /// known, and stops the work by answering false: the result is then nothing, and a later call goes on.
    pub(crate) fn complete(
        job: &Job<'_>,
        run: &str,
        folder: &Path,
        log_ratios: impl Fn(&PackedBatch) -> Result<Vec<f64>, TrainError>,
        progress: impl Fn(usize, usize) -> bool,
    ) -> Result<Option<Self>, TrainError> {
        let sets = [(Set::Train, job.task.train()), (Set::HeldOut, job.task.held_out())];
        if matches!(sets[0].1, TaskData::Dialogues(_)) {
            return Ok(Some(Self::default()));
        }
        let mut file = ReferenceFile::open(folder, run)?;
        let total = sets.iter().map(|(_, data)| data.len()).sum();
        for (set, data) in sets {
            for (batch, places) in data.pack(job.config, 0) {
                if places.iter().all(|&place| file.known.contains_key(&(set, place))) {
                    continue;
                }
                if !progress(file.known.len(), total) {
                    return Ok(None);
                }
                file.append(set, &places, &log_ratios(&batch)?)?;
            }
        }
        let of = |set: Set, data: TaskData<'_>| {
            (0..data.len()).map(|place| file.known.get(&(set, place)).copied().unwrap_or_default()).collect()
        };
        Ok(Some(Self { train: of(sets[0].0, sets[0].1), held_out: of(sets[1].0, sets[1].1) }))
    }
}

struct ReferenceFile {
    path: PathBuf,
    file: File,
    known: HashMap<(Set, usize), f64>,
}

impl ReferenceFile {
    fn open(folder: &Path, run: &str) -> Result<Self, TrainError> {
        let path = folder.join("reference.jsonl");
        let io = |action| {
            let path = path.clone();
            move |reason| TrainError::Io { action, path, reason }
        };
        fs::create_dir_all(folder).map_err(io("write"))?;
        let text = if path.exists() { fs::read_to_string(&path).map_err(io("read"))? } else { String::new() };
        // What follows the last newline was being written when the run died.
        let whole = &text[..text.rfind('\n').map_or(0, |place| place + 1)];
        let mut lines = whole.lines();
        let is_ours = lines.next().and_then(|line| serde_json::from_str::<Header>(line).ok());
        let mut known = HashMap::new();
        let mut kept = serde_json::to_string(&Header { run: run.to_owned() }).unwrap_or_default() + "\n";
        if is_ours.is_some_and(|header| header.run == run) {
            for line in lines {
                let Ok(Line { set, place, log_ratio }) = serde_json::from_str(line) else { continue };
                known.insert((set, place), log_ratio);
                kept.push_str(line);
                kept.push('\n');
            }
        }
        opencharacter_nn::atomic_write(&path, kept.as_bytes()).map_err(io("write"))?;
        let file = fs::OpenOptions::new().append(true).open(&path).map_err(io("write"))?;
        Ok(Self { path, file, known })
    }

    fn append(&mut self, set: Set, places: &[usize], log_ratios: &[f64]) -> Result<(), TrainError> {
        let mut text = String::new();
        for (&place, &log_ratio) in places.iter().zip(log_ratios) {
            text += &serde_json::to_string(&Line { set, place, log_ratio }).unwrap_or_default();
            text.push('\n');
            self.known.insert((set, place), log_ratio);
        }
        let failed = |reason| TrainError::Io { action: "write", path: self.path.clone(), reason };
        self.file.write_all(text.as_bytes()).map_err(failed)
    }
}
