//! The contract's rules over every store in this crate.

use std::sync::Arc;

use sledge::conformance::{Harness, RULES};
use sledge::store::Store;
use sledge::store::memory::Memory;

struct M(Memory);
impl Harness for M {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }
    fn restart(&self) -> bool {
        false
    }
    fn impatient(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Memory::with_writer_silence(std::time::Duration::ZERO)))
    }
}
#[test]
fn memory() {
    let m = M(Memory::new());
    let mut failed = vec![];
    for rule in RULES {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (rule.check)(&m))).is_err() {
            failed.push(rule.name);
        }
    }
    assert_eq!(failed, Vec::<&str>::new());
}
