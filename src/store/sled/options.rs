//! How a store is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::events::Events;
use super::evict::Evicted;
use super::store::Sled;
use crate::error::{Error, Result};
use crate::store::Pinned;

/// How a [`Sled`] store is opened; the defaults are those of a registry with little memory.
///
/// Nothing here is written down: a store may be opened with other options each time.
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `open`"]
pub struct Options {
    pub(super) inline: Inline,
    pub(super) durability: Durability,
    pub(super) cache_capacity: u64,
    pub(super) past_cache: bool,
    pub(super) writer_silence: Duration,
    pub(super) reserve: u64,
    pub(super) create: bool,
    pub(super) grace: Duration,
    pub(super) budget: Option<u64>,
    pub(super) when_full: WhenFull,
    pub(super) on_evicted: OnEvicted,
    pub(super) events: Option<Events>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inline: Inline::default(),
            durability: Durability::default(),
            cache_capacity: 16 << 20,
            past_cache: false,
            writer_silence: Duration::from_secs(30),
            reserve: 32 << 20,
            create: true,
            grace: Duration::from_secs(24 * 3600),
            budget: None,
            when_full: WhenFull::Refuse,
            on_evicted: OnEvicted::default(),
            events: None,
        }
    }
}

impl Options {
    /// The least budget that makes sense, in bytes: what an empty store takes, and what is kept for its index.
    pub const LEAST_BUDGET: u64 = 64 << 20;

    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is kept inside the index instead of in a file of its own. Default: up to 16 KiB.
    pub const fn inline(mut self, inline: Inline) -> Self {
        self.inline = inline;
        self
    }

    /// When an answer is given. Default: when the disk has it.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many bytes of the index are kept in memory, as sled counts them: the process takes two to three times as much for it.
    /// Default: 16 MiB.
    ///
    /// The index of 10,000 tagged manifests fits that, and that of 300,000 fits 512 MiB: some 1.7 KiB for each. What reads a few
    /// records, as pulls and pushes do, costs a little more where the index does not fit, and what walks all of it up to five times
    /// as much for each.
    pub const fn cache_capacity(mut self, bytes: u64) -> Self {
        self.cache_capacity = bytes;
        self
    }

    /// Whether content goes to its files past the system's cache, where the filesystem can do that: a copy there costs more than all
    /// else that is done with it but hashing, and takes the room of what others read. For who takes in much and hands it out
    /// later, as a registry does. Default: no, as what a program puts it mostly reads at once, which then would come from the disk.
    pub const fn past_cache(mut self, past_cache: bool) -> Self {
        self.past_cache = past_cache;
        self
    }

    /// For how long the writer of an upload session must have been silent before another may take over. Default: 30 s.
    pub const fn writer_silence(mut self, silence: Duration) -> Self {
        self.writer_silence = silence;
        self
    }

    /// How many bytes of the filesystem pushes leave free, so that deleting still works when it is full. Default: 32 MiB.
    pub const fn reserve(mut self, bytes: u64) -> Self {
        self.reserve = bytes;
        self
    }

    /// Whether a store is made where the folder is absent or empty; if not, that is an error. Default: yes.
    pub const fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The most bytes that the folder takes on the disk, all of it counted: content, open upload sessions, the index. What would
    /// go beyond is refused with [`Error::OverBudget`]. The last 16 MiB are kept for the index, whose file grows by 4 MiB at a
    /// time: so much is left unused by what is pushed. Where the index takes more than a quarter of the budget, content goes to
    /// files that would be inline, unless all of it is; and it is written anew before additions, where it holds little
    /// ([`compact`](super::compact) does it where it holds more).
    /// At least [`Options::LEAST_BUDGET`]. Default: what the filesystem has.
    pub const fn budget(mut self, bytes: u64) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// What becomes of a push for which the budget has no room. Default: it is refused.
    pub fn when_full(mut self, then: WhenFull) -> Self {
        self.when_full = then;
        self
    }

    /// Who is told of each image that a cache lets go of, after that. It is called by who pushes, who waits for it, and must not use
    /// the store.
    pub fn on_evicted(mut self, tell: impl Fn(&Evicted) + Send + Sync + 'static) -> Self {
        self.on_evicted = OnEvicted(Some(Arc::new(tell)));
        self
    }

    /// Writes an event of each change, in the transaction that makes it, for [`Sled::events`] to read. Who opens the store without
    /// changes it untold; what was written before stays to be read. Default: none is written.
    pub fn events(mut self, events: Events) -> Self {
        self.events = Some(events);
        self
    }

    /// For how long a blob that no manifest references stays, and may be relied on by who pushed it or was told that it is there
    /// ([`Sled::collect`]). Default: 24 hours, so that an image may take a day to push.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Opens the store in a folder, and makes it if the folder is absent or empty.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::FormatVersion`], [`Error::Damaged`], [`Error::Io`]: each names the
    /// folder, and none of them has changed it.
    pub fn open(self, folder: impl AsRef<Path>) -> Result<Sled> {
        if let Inline::UpTo(bytes) = self.inline
            && bytes > Inline::MOST
        {
            let most = Inline::MOST;
            return Err(Error::Unsupported(format!(
                "content of {bytes} bytes cannot be inline: at most {most}, or all of it"
            )));
        }
        if let Some(bytes) = self.budget.filter(|bytes| *bytes < Self::LEAST_BUDGET) {
            let least = Self::LEAST_BUDGET;
            return Err(Error::Unsupported(format!(
                "a budget of {bytes} bytes is too small for a store: at least {least}"
            )));
        }
        Sled::open_with(folder.as_ref(), self)
    }
}

/// Which content is kept inside the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inline {
    /// Blobs and manifests of at most so many bytes, no more than [`Inline::MOST`]; 0 puts all but the empty in files. A blob
    /// that comes in more than one request is in a file whatever its size.
    UpTo(usize),
    /// All of it: the store is one database. For small caches and tests; facts in DESIGN.md tell what it costs.
    Everything,
}

impl Inline {
    /// The most that [`Inline::UpTo`] takes, in bytes: so much of each upload is held in memory.
    pub const MOST: usize = 32 << 10;

    pub(super) const fn admits(self, size: usize) -> bool {
        match self {
            Self::UpTo(most) => size <= most,
            Self::Everything => true,
        }
    }
}

impl Default for Inline {
    fn default() -> Self {
        Self::UpTo(16 << 10)
    }
}

type Tell = dyn Fn(&Evicted) + Send + Sync;

/// Who is told of images that went.
#[derive(Clone, Default)]
pub(super) struct OnEvicted(Option<Arc<Tell>>);

impl OnEvicted {
    pub(super) fn tell(&self, evicted: &Evicted) {
        if let Some(tell) = &self.0 {
            tell(evicted);
        }
    }
}

impl fmt::Debug for OnEvicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnEvicted(_)" } else { "OnEvicted" })
    }
}

/// What becomes of a push for which the budget has no room.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is refused with [`Error::OverBudget`].
    #[default]
    Refuse,
    /// Images go that were neither pushed nor pulled for the longest time, until there is room: for caches that can fetch
    /// again. An image goes whole, with what only it uses; layers that another one uses stay. Before any image does, upload
    /// sessions go that nobody has gone on with for 5 minutes, and blobs that no image has come to use in the grace time or
    /// in an hour, whichever is shorter.
    Evict {
        /// Images that one of these tags points at stay.
        pinned: Pinned,
    },
}

/// When an answer is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// When a power cut can no longer take it back.
    #[default]
    Strict,
    /// Before that: a power cut takes back at most what came within this time before it, and leaves the rest whole. For
    /// caches that can fetch again.
    Relaxed(Duration),
}
