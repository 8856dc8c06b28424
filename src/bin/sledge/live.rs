//! What of a server's settings can change while it runs: who may do what, certificates, and what is logged. They are read again
//! when a file that they name has changed, and with the configuration itself at SIGHUP.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sledge::access::{CurrentAccess, TokenEndpoint};
use sledge::server::Tls;
use tokio::signal::unix::Signal;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};
use tracing_subscriber::EnvFilter;

use crate::config::Source;
use crate::printer::Failure;
use crate::settings::{Mistake, Settings};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Puts another log filter in the place of the one that there is.
pub(crate) type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The parts of a server that change.
pub(crate) struct Live {
    source: Source,
    /// What holds now, as far as it can change; the rest as it was at the start.
    settings: Settings,
    /// None where everybody may do everything, for good: who is let in is not to hang on a slip in a file.
    access: Option<Arc<CurrentAccess>>,
    endpoint: Option<TokenEndpoint>,
    tls: Option<Tls>,
    set_filter: SetFilter,
    files: Files,
    reloads: Arc<Reloads>,
}

/// How often what has changed was taken in, and was not, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    pub(crate) taken: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What tells a file from what it was.
#[derive(PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    seen: Option<(u64, u64, i64, i64)>,
}

/// Files as they were when they were read.
struct Files {
    read: Vec<Stamp>,
    /// As they were found the last time, where that was different.
    changing: Option<Vec<Stamp>>,
}

impl Files {
    const fn read(stamps: Vec<Stamp>) -> Self {
        Self { read: stamps, changing: None }
    }

    /// Whether they are to be read again, as which they count from then on: when they are different, and as they were the last time.
    /// One that is being written may be cut at the end of a line.
    fn have_changed(&mut self, now: Vec<Stamp>) -> bool {
        if now == self.read {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() != Some(&now) {
            self.changing = Some(now);
            return false;
        }
        *self = Self::read(now);
        true
    }
}

impl Live {
    pub(crate) fn new(source: Source, settings: Settings, set_filter: SetFilter) -> Result<Self, Failure> {
        let failure = |mistake: Mistake| Failure::new(mistake.key, mistake.says);
        let stamps = stamps(&settings);
        let endpoint = settings.auth.endpoint().map_err(failure)?;
        let access = match settings.access(endpoint.clone()).map_err(failure)? {
            Some(access) => {
                let access = CurrentAccess::new(access).map_err(|error| Failure::new("", error))?;
                Some(Arc::new(access))
            }
            None => None,
        };
        let tls = settings.tls.load().map_err(failure)?;
        Ok(Self {
            source,
            settings,
            access,
            endpoint,
            tls,
            set_filter,
            files: Files::read(stamps),
            reloads: Arc::default(),
        })
    }

    pub(crate) fn access(&self) -> Option<Arc<CurrentAccess>> {
        self.access.clone()
    }

    pub(crate) fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    pub(crate) fn reloads(&self) -> Arc<Reloads> {
        Arc::clone(&self.reloads)
    }

    /// Looks after it until it is aborted. Each `hangup` has it read again.
    pub(crate) fn watch(mut self, mut hangup: Signal) -> JoinHandle<()> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                let told = tokio::select! {
                    told = hangup.recv() => told.is_some(),
                    _ = ticks.tick() => false,
                };
                // Files are read, and passwords are hashed.
                let looked = spawn_blocking(move || {
                    if told {
                        self.read_again();
                    } else {
                        self.look();
                    }
                    self
                });
                match looked.await {
                    Ok(live) => self = live,
                    Err(error) => {
                        tracing::error!(%error, "the configuration is not looked at any more");
                        return;
                    }
                }
            }
        })
    }

    /// Reads the files again, if one has changed and is not changing any more.
    fn look(&mut self) {
        if self.files.have_changed(stamps(&self.settings)) {
            let taken = self.refresh(&self.settings, self.endpoint.clone());
            self.count(taken);
        }
    }

    fn count(&self, taken: bool) {
        let Reloads { taken: well, refused } = &*self.reloads;
        (if taken { well } else { refused }).fetch_add(1, Ordering::Relaxed);
    }

    /// Reads all of it again. What is wrong changes nothing.
    fn read_again(&mut self) {
        let read = self.source.read().and_then(crate::config::Configuration::checked);
        let settings = match read {
            Ok(configuration) => configuration.settings,
            Err(failure) => {
                tracing::error!(%failure, "the configuration stays as it was");
                self.count(false);
                return;
            }
        };
        let filter = settings.filter();
        let set = EnvFilter::try_new(filter).map_err(|error| error.to_string());
        if let Err(error) = set.and_then(|filter| (self.set_filter)(filter)) {
            tracing::error!(error, filter, "what is logged stays as it was");
        }
        for key in self.settings.fixed_that_differ(&settings, self.access.is_some()) {
            tracing::warn!(setting = key, "changed: it takes a restart to hold");
        }
        // A file that was cut short is not to let every user do everything.
        if !self.settings.access.is_empty() && settings.access.is_empty() && self.access.is_some() {
            tracing::error!(
                "there are no rules any more: who may do what stays as it was, and to lift all of them takes a restart"
            );
            self.count(false);
            return;
        }
        // Its key is kept, and so the tokens that it has signed, as long as it is the same.
        let endpoint = if self.settings.auth.has_the_endpoint_of(&settings.auth) {
            Ok(self.endpoint.clone())
        } else {
            settings.auth.endpoint()
        };
        // Before they are read: what changes from here on is seen by the next look.
        let stamps = stamps(&settings);
        let taken = match endpoint {
            Ok(endpoint) => self.refresh(&settings, endpoint.clone()).then_some(endpoint),
            Err(Mistake { key, says }) => {
                tracing::error!(setting = %key, error = says, "who may do what stays as it was");
                None
            }
        };
        self.count(taken.is_some());
        if let Some(endpoint) = taken {
            self.endpoint = endpoint;
            self.settings.take_over(settings);
            self.files = Files::read(stamps);
        }
        tracing::info!("the configuration was read again");
    }

    /// Takes files as they are now. Says whether who may do what is as these settings say.
    fn refresh(&self, settings: &Settings, endpoint: Option<TokenEndpoint>) -> bool {
        if let Some(tls) = &self.tls {
            match tls.reload() {
                Ok(()) => tracing::info!("the certificate was read again"),
                Err(error) => {
                    tracing::error!(%error, "the certificate stays as it was");
                    self.count(false);
                }
            }
        }
        let Some(current) = &self.access else { return true };
        match settings.access(endpoint) {
            Ok(Some(access)) => {
                current.replace(access);
                tracing::info!("who may do what was read again");
                true
            }
            Ok(None) => {
                tracing::error!(
                    "nothing says any more who may do what, so that it stays as it was: to let everybody in takes a restart"
                );
                false
            }
            Err(Mistake { key, says }) => {
                tracing::error!(setting = %key, error = says, "who may do what stays as it was");
                false
            }
        }
    }
}

fn stamps(settings: &Settings) -> Vec<Stamp> {
    let stamp = |path: &std::path::Path| {
        let seen = fs::metadata(path).ok();
        let seen = seen.map(|found| (found.ino(), found.size(), found.mtime(), found.mtime_nsec()));
        Stamp { path: path.to_owned(), seen }
    };
    settings.files().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(size: u64) -> Vec<Stamp> {
        vec![Stamp { path: "users".into(), seen: Some((1, size, 0, 0)) }]
    }

    #[test]
    fn files_are_read_when_they_do_not_change_any_more() {
        let mut files = Files::read(of(1));
        let sizes = [1, 2, 3, 3, 3, 4, 3, 4, 4];
        let found = sizes.map(|size| files.have_changed(of(size)));
        assert_eq!(found, [false, false, false, true, false, false, false, false, true]);
    }
}
