//! Messages in sled's log that no sled wrote.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use super::super::log::{self, Header, Segment, forged};
use super::super::rescue;
use super::*;

/// sled made a table of all pages up to it, at each opening and in a rescue too, asked for 72 PB, and took the process down.
#[test]
fn a_store_whose_log_names_a_page_that_there_cannot_be_does_not_open_and_can_be_rescued() {
    let folder = folder();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let store = open(&old, Inline::default());
    let pushed: Vec<_> = (0..20_u8).map(|number| push(&store, &[number; 500]).unwrap()).collect();
    drop(store);
    let file = File::options().read(true).write(true).open(old.join("index/db")).unwrap();
    let Header::Number(number) = log::header(&file, 0).unwrap() else { panic!("the log has no header") };
    let end = Segment::read(&file, 0).unwrap().messages(number).last().unwrap().end as u64;
    file.write_all_at(&forged::free(number, 1 << 50), end).unwrap();

    let refused = Options::new().open(&old).map(drop).unwrap_err();
    assert!(matches!(&refused, Error::Damaged { reason, .. } if reason.contains("cannot be")), "{refused}");
    let report = rescue(&old, &new, &mut |_: &_| ControlFlow::Continue(())).unwrap();
    assert!(report.damage.iter().any(|damage| damage.contains("cannot be")), "{report:?}");
    assert_eq!((report.blobs, report.unnamed, report.lost), (20, 0, Vec::new()));
    let new = open(&new, Inline::default());
    assert!(pushed.iter().all(|digest| new.blob(&repository(), digest).is_ok()));
}
