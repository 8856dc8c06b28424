//! How much of the server one client gets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::options::ServerOptions;
use crate::error::Error;

/// When to try again where nobody knows when an upload will end.
const UPLOAD_ENDS: Duration = Duration::from_secs(5);
/// How many clients' rates are known one by one. Where more are busy at once, those that come later share one rate.
const MOST_CLIENTS: usize = 1 << 16;
/// How often clients that are quiet are looked for, at most.
const SWEEP: Duration = Duration::from_secs(1);

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            // The network that a user has: its addresses are too many to be counted one by one.
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        })
    }
}

/// The limits of all clients.
pub(super) struct Limits {
    connections: Shares,
    uploads: Shares,
    requests: Option<Rates>,
}

impl Limits {
    pub(super) fn new(options: &ServerOptions) -> Self {
        Self {
            connections: Shares::new(options.connections_per_client),
            uploads: Shares::new(options.uploads_per_client),
            requests: Rates::new(options.requests_per_second, options.requests_at_once),
        }
    }

    /// A place for a connection, until it is dropped.
    pub(super) fn connection(&self, client: Client) -> Option<Share> {
        self.connections.take(client)
    }

    /// A place for a request that brings content, until it is dropped.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`].
    pub(super) fn upload(&self, client: Client) -> Result<Share, Error> {
        self.uploads.take(client).ok_or(Error::TooManyRequests { retry_after: UPLOAD_ENDS })
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`].
    pub(super) fn request(&self, client: Client) -> Result<(), Error> {
        let Some(rates) = &self.requests else { return Ok(()) };
        rates.take(client, Instant::now()).map_err(|retry_after| Error::TooManyRequests { retry_after })
    }
}

/// How many places each client has. Clients that have none are not known.
type Held = Arc<Mutex<HashMap<Client, usize>>>;

/// So many places for each client; 0 for any number.
pub(super) struct Shares {
    most: usize,
    held: Held,
}

impl Shares {
    pub(super) fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    pub(super) fn take(&self, client: Client) -> Option<Share> {
        if self.most == 0 {
            return Some(Share(None));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share(Some((client, Arc::clone(&self.held)))))
    }
}

/// A place that is held.
pub(super) struct Share(Option<(Client, Held)>);

impl Drop for Share {
    fn drop(&mut self) {
        let Some((client, held)) = self.0.take() else { return };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                held.remove(&client);
            }
        }
    }
}

/// So many requests a second for each client (the generic cell rate algorithm: a client is one point in time, at which it will be
/// even with its rate).
struct Rates {
    /// The time that one request takes up.
    period: Duration,
    /// How far ahead of its rate a client may be.
    ahead: Duration,
    state: Mutex<State>,
}

struct State {
    even_at: HashMap<Client, Instant>,
    /// The same of all clients together that found no room.
    others_even_at: Instant,
    swept: Instant,
}

impl Rates {
    fn new(per_second: u32, at_once: u32) -> Option<Self> {
        let period = Duration::from_secs(1).checked_div(per_second)?;
        let now = Instant::now();
        let state = State { even_at: HashMap::new(), others_even_at: now, swept: now };
        Some(Self {
            period,
            ahead: period.saturating_mul(at_once.saturating_sub(1)),
            state: Mutex::new(state),
        })
    }

    /// Lets a request through, or says how long to wait.
    fn take(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let is_full = state.even_at.len() >= MOST_CLIENTS && !state.even_at.contains_key(&client);
        if is_full && now.saturating_duration_since(state.swept) >= SWEEP {
            state.swept = now;
            // Who is even is as a client that never came: nothing is lost.
            state.even_at.retain(|_, even_at| *even_at > now);
        }
        let even_at = if is_full && state.even_at.len() >= MOST_CLIENTS {
            &mut state.others_even_at
        } else {
            state.even_at.entry(client).or_insert(now)
        };
        let from = (*even_at).max(now);
        match from.saturating_duration_since(now).saturating_sub(self.ahead) {
            Duration::ZERO => {
                *even_at = from + self.period;
                Ok(())
            }
            early => Err(early),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn nth(n: usize) -> Client {
        IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()).into()
    }

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("::ffff:192.0.2.1"), client("::ffff:192.0.2.2"));
    }

    #[test]
    fn places_come_back_and_clients_without_any_are_forgotten() {
        let shares = Shares::new(2);
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        let first = shares.take(one).unwrap();
        let second = shares.take(one).unwrap();
        assert!(shares.take(one).is_none());
        let third = shares.take(other).unwrap();
        drop(first);
        let fourth = shares.take(one).unwrap();
        assert!(shares.take(one).is_none());
        drop((second, third, fourth));
        assert!(shares.held.lock().unwrap().is_empty());
    }

    #[test]
    fn a_rate_has_a_burst_and_says_when_to_come_again() {
        let rates = Rates::new(10, 3).unwrap();
        let (one, now) = (client("192.0.2.1"), Instant::now());
        let take = |after| rates.take(one, now + Duration::from_millis(after));
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        assert_eq!(take(0), Err(Duration::from_millis(100)));
        assert_eq!(take(30), Err(Duration::from_millis(70)));
        assert_eq!(rates.take(client("192.0.2.2"), now), Ok(()));
        // In the long run it is ten a second, whether or not more were asked for.
        assert_eq!((0..1000).filter(|n| take(100 + n).is_ok()).count(), 10);
        // Who was quiet has the burst again, and not more.
        assert_eq!([take(9000), take(9000), take(9000)], [Ok(()); 3]);
        assert_eq!(take(9000), Err(Duration::from_millis(100)));
        // Without a burst there is still one at a time.
        let rates = Rates::new(1, 0).unwrap();
        assert_eq!(rates.take(one, now), Ok(()));
        assert_eq!(rates.take(one, now), Err(Duration::from_secs(1)));
        assert!(Rates::new(0, 5).is_none());
    }

    #[test]
    fn as_many_clients_as_there_are_addresses_take_bounded_memory_and_share_one_rate() {
        let rates = Rates::new(1, 1).unwrap();
        let now = Instant::now();
        for n in 0..MOST_CLIENTS {
            assert_eq!(rates.take(nth(n), now), Ok(()));
        }
        let known = || rates.state.lock().unwrap().even_at.len();
        assert_eq!(rates.take(nth(MOST_CLIENTS), now), Ok(()));
        assert_eq!(rates.take(nth(MOST_CLIENTS + 1), now), Err(Duration::from_secs(1)));
        assert_eq!(known(), MOST_CLIENTS);
        // Those that are known are counted as before.
        assert_eq!(rates.take(nth(7), now), Err(Duration::from_secs(1)));
        // All of them are even by then, so there is room.
        let later = now + Duration::from_secs(2);
        assert_eq!(rates.take(nth(MOST_CLIENTS), later), Ok(()));
        assert_eq!(rates.take(nth(MOST_CLIENTS + 1), later), Ok(()));
        assert_eq!(known(), 2);
    }
}
