//! Building the shim, and running children under it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;

use super::workload::Life;

/// The shared object, built once.
pub(crate) fn object() -> &'static Path {
    static OBJECT: OnceLock<PathBuf> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/shim.c");
        let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{}.so", std::process::id()));
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&object)
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("a C compiler, as sled and the tests need one");
        assert!(built.success(), "the shim does not compile");
        object
    })
}

/// A folder in memory where there is such a thing: nothing here needs a disk, and much is written.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && tempfile::tempdir_in(memory).is_ok() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn copy_below(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_below(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kill {
    /// By itself.
    Not,
    /// At its n-th change of the folder: before it (0), after it (1), or in the middle of a write (2).
    AtChange(usize, usize),
    /// At its n-th change of a name or sync, from the first change that gives something this name on: before it (0) or after it (1).
    AtName(&'static str, usize, usize),
    /// After so many microseconds, whatever it is at.
    After(usize),
}

/// A place for a store with its account, its log and another boot of the machine.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = folder();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        std::fs::write(folder.path().join("boot"), "11111111-2222-4333-8444-555555555555\n").unwrap();
        Self { folder }
    }

    /// With what another place has, but for its log.
    pub(crate) fn like(other: &Self) -> Self {
        let place = Self::new();
        copy_below(&other.root(), &place.root());
        std::fs::copy(other.marks(), place.marks()).unwrap();
        place
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("root")
    }

    pub(crate) fn marks(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("marks")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("log")
    }

    /// This test binary again, as the child that lives in here, under the shim.
    pub(crate) fn child(&self, task: &str) -> Command {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("LD_PRELOAD", object())
            .env("POWER_TASK", task)
            .env("POWER_ROOT", self.root())
            .env("POWER_MARKS", self.marks())
            .env("SHIM_ROOT", self.root())
            .env("SHIM_MARKS", self.marks())
            .env("SHIM_BOOT", self.folder.path().join("boot"))
            .stdin(Stdio::null());
        child
    }

    /// One life, which ends by itself or is killed; anything else is a failure.
    pub(crate) fn live(&self, life: &Life, recorded: bool, kill: Kill) -> bool {
        let mut child = self.child(&format!("live {}", life.to_text()));
        if life.faulty {
            child.env("SHIM_UNDO", "1");
        }
        self.run(child, recorded, kill)
    }

    /// A child that ends by itself or is killed; anything else is a failure.
    pub(crate) fn run(&self, mut child: Command, recorded: bool, kill: Kill) -> bool {
        if recorded {
            child.env("SHIM_LOG", self.log());
        }
        match kill {
            Kill::Not => {}
            Kill::AtChange(at, phase) => drop(child.env("SHIM_KILL", format!("{at}:{phase}"))),
            Kill::AtName(from, at, phase) => {
                child.env("SHIM_KILL_FROM", from).env("SHIM_KILL", format!("{at}:{phase}"));
            }
            Kill::After(microseconds) => drop(child.env("SHIM_KILL_AFTER", microseconds.to_string())),
        }
        let output = child.output().unwrap();
        let killed = was_killed(output.status);
        assert!(killed || output.status.success(), "{child:?} {kill:?}: {}", told(&output));
        // A line that a kill has torn was not said: what it begins was not begun.
        let marks = std::fs::read(self.marks()).unwrap_or_default();
        let said = marks.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if said < marks.len() {
            std::fs::write(self.marks(), &marks[..said]).unwrap();
        }
        killed
    }
}

pub(crate) fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(9)
}

pub(crate) fn told(output: &Output) -> String {
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    format!("{}\n{text}", output.status)
}
