//! What a server does by itself, at an interval.

use std::fmt::Display;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sledge::Error;
use sledge::store::sled::{CollectOptions, Sled, VerifyOptions, Watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

/// Work that is done again and again until it is stopped.
pub(crate) struct Recurring {
    task: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl Recurring {
    /// Collects each time that the interval has passed since the last collection ended; with an interval of 0 never.
    pub(crate) fn collecting(store: Sled, options: CollectOptions, interval: Duration) -> Self {
        Self::start("collection", interval, move |watch| {
            let collected = store.collect(&options, watch)?;
            if collected.is_empty() {
                tracing::debug!(%collected, "nothing to collect");
            } else {
                tracing::info!(%collected, "collected");
            }
            Ok(())
        })
    }

    /// Verifies likewise.
    pub(crate) fn verifying(store: Sled, options: VerifyOptions, interval: Duration) -> Self {
        Self::start("verification", interval, move |watch| {
            let report = store.verify(&options, watch)?;
            if report.is_well() {
                tracing::info!(%report, "verified");
            } else {
                tracing::error!(%report, "verified: something is bad or wrong");
            }
            Ok(())
        })
    }

    fn start(
        what: impl Display + Send + 'static,
        interval: Duration,
        work: impl Fn(Watch<'_>) -> sledge::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stopping);
        let task = (interval > Duration::ZERO)
            .then(|| tokio::spawn(repeat(what, interval, Arc::new(work), stopped)));
        Self { task, stopping }
    }

    /// Ends what is under way, and waits for that.
    pub(crate) async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(task) = self.task {
            task.abort();
            // It ends by being aborted; work under way sees that nobody waits for it, and ends too.
            let _ = task.await;
        }
    }
}

async fn repeat<W>(what: impl Display, interval: Duration, work: Arc<W>, stopping: Arc<AtomicBool>)
where
    W: Fn(Watch<'_>) -> sledge::Result<()> + Send + Sync + 'static,
{
    loop {
        sleep(interval).await;
        let (work, stopping) = (Arc::clone(&work), Arc::clone(&stopping));
        let done = spawn_blocking(move || {
            work(&mut |_| {
                if stopping.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Interrupted(_))) => return,
            Ok(Err(error)) => tracing::error!(%error, "the {what} failed: the next one tries again"),
            Err(error) => tracing::error!(%error, "the {what} stopped short"),
        }
    }
}
