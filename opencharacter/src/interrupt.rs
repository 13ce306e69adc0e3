use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use tokio::sync::Notify;

use crate::failure::Interrupted;

static PRESSED: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C was pressed, for code that has nobody to ask: fetching a model.
pub fn pressed() -> bool {
    PRESSED.load(Ordering::Relaxed)
}

/// Ctrl-C as a question that anything may ask. A second Ctrl-C ends the process at once.
#[derive(Clone, Default)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Interrupt {
    /// Starts listening.
    pub fn listen() -> Self {
        let interrupt = Self::default();
        let (flag, notify) = (Arc::clone(&interrupt.flag), Arc::clone(&interrupt.notify));
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                PRESSED.store(true, Ordering::Relaxed);
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("\nstopping; press Ctrl-C again to stop at once");
                notify.notify_waiters();
            }
        });
        interrupt
    }

    /// Set once Ctrl-C was pressed.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Gives [`Interrupted`] once Ctrl-C was pressed.
    pub fn check(&self) -> Result<()> {
        if self.flag.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Ends when Ctrl-C is pressed.
    pub async fn pressed(&self) {
        let pressed = self.notify.notified();
        if self.check().is_ok() {
            pressed.await;
        }
    }

    /// Runs `work`, or gives [`Interrupted`] when Ctrl-C is pressed; `work` is dropped then.
    pub async fn guard<T, E: Into<anyhow::Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T> {
        let pressed = self.notify.notified();
        self.check()?;
        tokio::select! {
            result = work => result.map_err(Into::into),
            () = pressed => Err(Interrupted.into()),
        }
    }
}
