//! The log of the shim: what a process did to the folder, in order.

/// One event. Files are named by the number that their opening got in this life of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A process begins.
    Life,
    Open {
        file: u64,
        flags: i64,
        path: &'a str,
    },
    Write {
        file: u64,
        offset: u64,
        bytes: &'a [u8],
    },
    Truncate {
        file: u64,
        length: u64,
    },
    Allocate {
        file: u64,
        end: u64,
    },
    Rename {
        from: &'a str,
        to: &'a str,
    },
    Link {
        from: &'a str,
        to: &'a str,
    },
    Unlink {
        path: &'a str,
    },
    RemoveFolder {
        path: &'a str,
    },
    MakeFolder {
        path: &'a str,
    },
    Sync {
        file: u64,
    },
    FailedSync {
        file: u64,
    },
    /// A block that was lost is read from the disk again.
    Reverted {
        file: u64,
        offset: u64,
    },
    /// What the workload says of itself.
    Mark {
        text: &'a str,
    },
}

const MAGIC: u32 = 0x5348_4d31;
const HEAD: usize = 48;

/// The events in a log, from a position on.
pub(crate) fn events(log: &[u8]) -> Vec<Event<'_>> {
    let mut events = Vec::new();
    let mut at = 0;
    while at < log.len() {
        let word = |offset: usize| u32::from_le_bytes(log[at + offset..][..4].try_into().unwrap());
        let long = |offset: usize| u64::from_le_bytes(log[at + offset..][..8].try_into().unwrap());
        assert_eq!(word(0), MAGIC, "the log is out of step at byte {at}");
        let (kind, file, a, b) = (word(4), long(8), long(16), long(24));
        let first_length = word(32) as usize;
        let second_length = word(36) as usize;
        let length = usize::try_from(long(40)).unwrap();
        let rest = &log[at + HEAD..];
        let (first, rest) = rest.split_at(first_length);
        let (second, rest) = rest.split_at(second_length);
        let bytes = &rest[..length];
        at += HEAD + first_length + second_length + length;
        let path = std::str::from_utf8(first).unwrap();
        let to = std::str::from_utf8(second).unwrap();
        events.push(match kind {
            1 => Event::Life,
            2 => Event::Open { file, flags: a.cast_signed(), path },
            3 => Event::Write { file, offset: a, bytes },
            4 => Event::Truncate { file, length: a },
            5 => Event::Rename { from: path, to },
            6 => Event::Unlink { path },
            7 => Event::RemoveFolder { path },
            8 => Event::MakeFolder { path },
            9 => Event::Link { from: path, to },
            10 => Event::Sync { file },
            11 => Event::Mark { text: std::str::from_utf8(bytes).unwrap() },
            12 => Event::Allocate { file, end: a + b },
            14 => Event::FailedSync { file },
            15 => Event::Reverted { file, offset: a },
            _ => panic!("a call that the model does not know: {path} {kind}"),
        });
    }
    events
}
