use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::progress;

/// Who only looks whether somebody works here (`serve` does) has the lock for a moment.
const LOOKS: usize = 5;
const LOOK: Duration = Duration::from_millis(20);

/// A folder that this process alone works in, for as long as this lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder if need be and takes its lock.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot create `{}`; choose a folder that can be written", path.display()))?;
        let lock_path = path.join("run.lock");
        let lock =
            File::options().create(true).truncate(false).write(true).open(&lock_path).with_context(|| {
                format!("cannot write in `{}`; choose a folder that can be written", path.display())
            })?;
        let mut taken = lock.try_lock();
        for _ in 0..LOOKS {
            if !matches!(taken, Err(TryLockError::WouldBlock)) {
                break;
            }
            thread::sleep(LOOK);
            taken = lock.try_lock();
        }
        match taken {
            Ok(()) => {
                progress::keep_in(path);
                Ok(Self { path: path.into(), _lock: lock })
            }
            Err(TryLockError::WouldBlock) => {
                bail!("another process is working in `{}`; wait for it or choose another folder", path.display())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock `{}`", lock_path.display()))
            }
        }
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
