//! Checking passwords.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::hmac;
use ring::rand::SystemRandom;

use super::credentials::Basic;
use super::error::{self, AccessError};
use super::htpasswd::{self, Line};

/// How many right passwords are remembered.
const REMEMBERED: usize = 1024;

/// The users of a password file.
///
/// A check costs what the file's bcrypt hashes cost, tens of milliseconds of a processor; a password that was right is remembered,
/// as a hash under a key of this process that is never written down, and costs nothing when it comes again. As bcrypt has it, the
/// first 72 bytes of a password count; one with a NUL in it is none.
pub struct Passwords {
    users: HashMap<Arc<str>, Line>,
    /// The users' costs, in order: unknown users cost what one of them does.
    costs: Vec<u32>,
    memory: Arc<Memory>,
}

/// What outlives a file that is read again.
struct Memory {
    key: hmac::Key,
    remembered: Mutex<Remembered>,
}

/// How much of a password bcrypt reads, in bytes.
const READ: usize = 72;

#[derive(Default)]
struct Remembered {
    right: HashSet<[u8; 32]>,
    /// The same, the oldest first.
    order: VecDeque<[u8; 32]>,
}

/// The salt and hash of no password, behind a cost.
const NOBODY: &str = "c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS";

impl Passwords {
    /// Reads a password file as `htpasswd -B` writes it.
    ///
    /// # Errors
    /// [`AccessError::Read`], and [`AccessError::Passwords`] with file and line: for hashes that are not bcrypt's, too.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, AccessError> {
        let path = path.as_ref();
        Self::parse(&error::read(path, htpasswd::LONGEST)?).map_err(|error| error.of(path))
    }

    /// The same from its bytes.
    ///
    /// # Errors
    /// [`AccessError::Passwords`], with the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, AccessError> {
        let users = htpasswd::parse(bytes)?;
        let mut costs: Vec<u32> = users.values().map(|line| line.cost).collect();
        costs.sort_unstable();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        Ok(Self { users, costs, memory: Arc::new(Memory { key, remembered: Mutex::default() }) })
    }

    /// The same, with what an earlier file remembers of users whose lines are as they were: they are not to wait in line with
    /// strangers because somebody else's password has changed.
    pub(super) fn remembering(mut self, earlier: &Self) -> Self {
        self.memory = Arc::clone(&earlier.memory);
        self
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The user, if this password was found to be right already. Does not block for long.
    pub(crate) fn recall(&self, basic: &Basic) -> Option<Arc<str>> {
        let (user, line) = self.users.get_key_value(&*basic.user)?;
        self.remembered().right.contains(&self.mark(basic, line)).then(|| Arc::clone(user))
    }

    /// The user, if the password is his. Takes as long for a user that there is not. Blocks for tens of milliseconds and more.
    pub(crate) fn check(&self, basic: &Basic) -> Option<Arc<str>> {
        // Somebody may have come with it while this one waited.
        if let Some(user) = self.recall(basic) {
            return Some(user);
        }
        let known = self.users.get_key_value(&*basic.user);
        let nobody;
        let hash = match known {
            Some((_, line)) => line.hash.as_str(),
            None => {
                nobody = format!("$2b${:02}${NOBODY}", self.cost_of_unknown(&basic.user));
                &nobody
            }
        };
        // Compares in constant time.
        let right = bcrypt::verify(basic.password.as_bytes(), hash).unwrap_or(false);
        // bcrypt goes round from the NUL behind a password to its beginning: `x` with one, and once more, would be `x`.
        let (user, line) = known.filter(|_| right && !basic.password.contains('\0'))?;
        self.remember(self.mark(basic, line));
        Some(Arc::clone(user))
    }

    /// The same one each time that this name comes, as a user's would be.
    fn cost_of_unknown(&self, user: &str) -> u32 {
        let drawn = hmac::sign(&self.memory.key, user.as_bytes());
        let drawn =
            drawn.as_ref().iter().fold(0_usize, |all, byte| all.wrapping_mul(31) ^ usize::from(*byte));
        let at = drawn.checked_rem(self.costs.len()).unwrap_or_default();
        self.costs.get(at).copied().unwrap_or(10)
    }

    /// A user's line as it is now, in few bytes that say nothing of it: another password gives others. `None` if there is no such
    /// user.
    pub(super) fn seal(&self, key: &hmac::Key, user: &str) -> Option<hmac::Tag> {
        self.users.get(user).map(|line| hmac::sign(key, line.hash.as_bytes()))
    }

    /// One for all that bcrypt takes for the same password: or who has one could have so many remembered that others are forgotten.
    fn mark(&self, basic: &Basic, line: &Line) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.memory.key);
        // The lengths say where each ends.
        for part in [&*basic.user, &line.hash] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let password = basic.password.as_bytes();
        context.update(password.get(..READ).unwrap_or(password));
        let mut mark = [0; 32];
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }

    fn remember(&self, mark: [u8; 32]) {
        let mut remembered = self.remembered();
        if !remembered.right.insert(mark) {
            return;
        }
        remembered.order.push_back(mark);
        if remembered.order.len() > REMEMBERED
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.right.remove(&oldest);
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.memory.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({} users)", self.users.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "alice:$2y$05$c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS\n";

    fn basic(user: &str, password: &str) -> Basic {
        Basic { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn the_right_password_is_remembered_and_no_other() {
        let passwords = Passwords::parse(LINE.as_bytes()).unwrap();
        let right = basic("alice", "wonderland");
        assert_eq!(passwords.recall(&right), None);
        assert_eq!(passwords.check(&right).as_deref(), Some("alice"));
        assert_eq!(passwords.recall(&right).as_deref(), Some("alice"));
        for (user, password) in [
            ("alice", "Wonderland"),
            ("alice", ""),
            ("bob", "wonderland"),
            ("", "wonderland"),
            ("alic", "ewonderland"),
        ] {
            let wrong = basic(user, password);
            assert_eq!(
                (passwords.check(&wrong), passwords.recall(&wrong)),
                (None, None),
                "{user} {password}"
            );
        }
        let again = Passwords::parse(LINE.as_bytes()).unwrap();
        assert_eq!(again.recall(&right), None, "what another file has remembered is not this one's");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let passwords = Passwords::parse(LINE.as_bytes()).unwrap();
        let line = &passwords.users["alice"];
        for n in 0..=REMEMBERED {
            passwords.remember(passwords.mark(&basic("alice", &n.to_string()), line));
        }
        assert_eq!(passwords.remembered().right.len(), REMEMBERED);
        assert_eq!(passwords.recall(&basic("alice", "0")), None);
        assert!(passwords.recall(&basic("alice", "1")).is_some());
    }

    /// bcrypt reads 72 bytes and goes round in them. Each of so many forms of one password was remembered, and others' forgotten.
    #[test]
    fn forms_of_one_password_take_one_place() {
        let hash =
            bcrypt::hash_with_result("x".repeat(80), 4).unwrap().format_for_version(bcrypt::Version::TwoY);
        let passwords = Passwords::parse(format!("long:{hash}\n{LINE}").as_bytes()).unwrap();
        assert!(passwords.check(&basic("alice", "wonderland")).is_some());
        for n in 0..8 {
            assert!(passwords.check(&basic("long", &format!("{}{n}", "x".repeat(72)))).is_some());
            assert_eq!(passwords.check(&basic("alice", &format!("wonderland\0wonderland\0{n}"))), None);
        }
        assert_eq!(passwords.check(&basic("alice", "wonderland\0wonderland")), None);
        assert_eq!(passwords.remembered().right.len(), 2);
    }

    #[test]
    fn a_file_that_is_read_again_remembers_who_did_not_change() {
        let before = Passwords::parse(format!("{LINE}{}", LINE.replace("alice", "bob")).as_bytes()).unwrap();
        let [alice, bob] = ["alice", "bob"].map(|user| basic(user, "wonderland"));
        assert!(before.check(&alice).is_some() && before.check(&bob).is_some());
        let hash = bcrypt::hash_with_result("other", 4).unwrap().format_for_version(bcrypt::Version::TwoY);
        let after = Passwords::parse(format!("{LINE}bob:{hash}\n").as_bytes()).unwrap().remembering(&before);
        assert!(after.recall(&alice).is_some());
        assert_eq!((after.recall(&bob), after.check(&bob)), (None, None));
        let gone = Passwords::parse(b"").unwrap().remembering(&after);
        assert_eq!(gone.recall(&alice), None);
    }

    /// A check of an unknown user that cost nothing, or always the same, would tell which names there are.
    #[test]
    fn an_unknown_user_costs_what_users_cost() {
        let line = |user: &str, cost: &str| LINE.replace("alice", user).replace("$05$", cost);
        let text = [line("a", "$04$"), line("b", "$06$"), line("c", "$06$")].concat();
        let passwords = Passwords::parse(text.as_bytes()).unwrap();
        let costs: Vec<u32> = (0..600).map(|n| passwords.cost_of_unknown(&format!("user{n}"))).collect();
        let cheap = costs.iter().filter(|cost| **cost == 4).count();
        assert!((100..300).contains(&cheap), "{cheap} of 600 cost as little as one of three");
        assert!(costs.iter().all(|cost| matches!(cost, 4 | 6)));
        assert_eq!(passwords.cost_of_unknown("x"), passwords.cost_of_unknown("x"));
        assert_eq!(Passwords::parse(b"").unwrap().cost_of_unknown("x"), 10);
        // And it is a hash that bcrypt takes: one that it refuses is refused at once.
        assert!(bcrypt::verify("x", &format!("$2b$04${NOBODY}")).is_ok());
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown =
            format!("{:?} {:?}", Passwords::parse(LINE.as_bytes()).unwrap(), basic("alice", "wonderland"));
        assert!(!shown.contains("c4WoMPo3") && !shown.contains("wonderland"), "{shown}");
    }
}
