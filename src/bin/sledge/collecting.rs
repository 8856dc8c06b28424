//! Collection by itself, at an interval, in a server.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sledge::Error;
use sledge::store::sled::{CollectOptions, Sled};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

pub(crate) struct Collecting {
    task: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl Collecting {
    /// Collects each time that the interval has passed since the last collection began; with an interval of 0 never.
    pub(crate) fn start(store: Sled, options: CollectOptions, interval: Duration) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let task = (interval > Duration::ZERO)
            .then(|| tokio::spawn(collect(store, options, interval, Arc::clone(&stopping))));
        Self { task, stopping }
    }

    /// Ends a collection that is under way, and waits for that.
    pub(crate) async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(task) = self.task {
            task.abort();
            // It ends by being aborted; a collection under way sees that nobody waits for it, and ends too.
            let _ = task.await;
        }
    }
}

async fn collect(store: Sled, options: CollectOptions, interval: Duration, stopping: Arc<AtomicBool>) {
    loop {
        sleep_until(Instant::now() + interval).await;
        let (store, options, stopping) = (store.clone(), options.clone(), Arc::clone(&stopping));
        let collection = spawn_blocking(move || {
            store.collect(&options, &mut |_| {
                if stopping.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        match collection.await {
            Ok(Ok(collected)) if collected.is_empty() => tracing::debug!(%collected, "nothing to collect"),
            Ok(Ok(collected)) => tracing::info!(%collected, "collected"),
            Ok(Err(Error::Interrupted(_))) => return,
            Ok(Err(error)) => tracing::error!(%error, "the collection failed: the next one tries again"),
            Err(error) => tracing::error!(%error, "the collection stopped short"),
        }
    }
}
