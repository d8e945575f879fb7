//! Credentials verified a moment ago, so that a hot one costs a hash instead of a signature check.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use super::{UserInfo, Verified};

/// For how long a credential is believed without looking again; upstream's TTL for tokens, and so the time a token
/// may outlive the deletion of the pod it is bound to.
const TTL_SECONDS: i64 = 10;
/// How many credentials are kept; the oldest goes first. An entry is some 300 bytes.
const CAPACITY: usize = 4096;

type Key = [u8; 32];

/// A bounded cache of verified credentials, keyed by their hash. Only good news is kept.
#[derive(Default)]
pub(super) struct Cache {
    entries: RwLock<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// In order of arrival.
    order: VecDeque<Key>,
}

struct Entry {
    user: Arc<UserInfo>,
    until: Timestamp,
}

impl Cache {
    /// The user of a credential that was verified at most [`TTL_SECONDS`] ago and has not expired since.
    pub(super) fn get(&self, credential: &[u8], now: Timestamp) -> Option<Arc<UserInfo>> {
        self.get_key(&key(credential), now)
    }

    /// Keeps what a credential proved.
    pub(super) fn put(&self, credential: &[u8], now: Timestamp, verified: Verified) -> Arc<UserInfo> {
        self.put_key(key(credential), now, verified)
    }

    /// The user of a credential, from the cache or by verifying it.
    pub(super) fn get_or_verify<E>(
        &self,
        credential: &[u8],
        now: Timestamp,
        verify: impl FnOnce() -> Result<Verified, E>,
    ) -> Result<Arc<UserInfo>, E> {
        let key = key(credential);
        match self.get_key(&key, now) {
            Some(user) => Ok(user),
            None => Ok(self.put_key(key, now, verify()?)),
        }
    }

    fn get_key(&self, key: &Key, now: Timestamp) -> Option<Arc<UserInfo>> {
        let entries = self.entries.read();
        // A clock set back must not lengthen a credential's life, so the entry may not lie far ahead either.
        let entry = entries.by_key.get(key).filter(|entry| {
            let left = entry.until.as_second() - now.as_second();
            entry.until > now && left <= TTL_SECONDS
        })?;
        Some(Arc::clone(&entry.user))
    }

    fn put_key(&self, key: Key, now: Timestamp, verified: Verified) -> Arc<UserInfo> {
        let user = Arc::new(verified.user);
        let seconds = verified.expires.map_or(TTL_SECONDS, |expires| (expires - now.as_second()).min(TTL_SECONDS));
        let Ok(until) = now.checked_add(jiff::SignedDuration::from_secs(seconds)) else { return user };
        let mut entries = self.entries.write();
        if entries.by_key.insert(key, Entry { user: Arc::clone(&user), until }).is_none() {
            entries.order.push_back(key);
        }
        while entries.by_key.len() > CAPACITY {
            let Some(oldest) = entries.order.pop_front() else { break };
            entries.by_key.remove(&oldest);
        }
        user
    }
}

fn key(credential: &[u8]) -> Key {
    Sha256::digest(credential).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn verified(expires: Option<i64>) -> Verified {
        Verified { user: UserInfo::new("jane", ["a"]), audiences: None, expires }
    }

    #[test]
    fn forgets_in_time() {
        let cache = Cache::default();
        cache.put(b"long", at(1000), verified(None));
        cache.put(b"short", at(1000), verified(Some(1003)));
        assert!(cache.get(b"long", at(1009)).is_some());
        assert!(cache.get(b"long", at(1010)).is_none());
        assert!(cache.get(b"short", at(1002)).is_some());
        assert!(cache.get(b"short", at(1003)).is_none());
        assert!(cache.get(b"long", at(900)).is_none(), "the clock was set back");
        assert!(cache.get(b"other", at(1000)).is_none());
    }

    #[test]
    fn is_bounded() {
        let cache = Cache::default();
        for n in 0..CAPACITY + 10 {
            cache.put(n.to_string().as_bytes(), at(0), verified(None));
        }
        assert_eq!(cache.entries.read().by_key.len(), CAPACITY);
        assert!(cache.get(b"0", at(1)).is_none());
        assert!(cache.get(CAPACITY.to_string().as_bytes(), at(1)).is_some());
    }
}
