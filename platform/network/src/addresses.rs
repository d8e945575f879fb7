use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    HostPort, PodIps, PodNetworkConfig,
    cidr::Cidr,
    error::{Doing as _, Error, Result},
};

/// Who has which address: a file a sandbox, and the same in memory.
///
/// Files are replaced whole but not synced: a machine that lost its power has lost its sandboxes too.
pub(crate) struct Addresses {
    dir: PathBuf,
    records: BTreeMap<String, Record>,
    /// Where the search for a free address goes on, so that a freed one rests before it is used again.
    cursor: BTreeMap<Cidr, u128>,
}

/// What a sandbox was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) sandbox_id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) ips: PodIps,
    pub(crate) host_ports: Vec<HostPort>,
}

// === impl Addresses ===

impl Addresses {
    /// Reads what an earlier process left. Blocks on files.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let action = || format!("read the addresses of sandboxes from {}", dir.display());
        fs::create_dir_all(dir).doing(action)?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(dir).doing(action)? {
            let path = entry.doing(action)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match serde_json::from_slice::<Record>(&fs::read(&path).doing(action)?) {
                Ok(record) => {
                    records.insert(record.sandbox_id.clone(), record);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = %error, "forgot an unreadable record of a sandbox's addresses");
                    fs::remove_file(&path).doing(action)?;
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), records, cursor: BTreeMap::new() })
    }

    pub(crate) fn get(&self, sandbox_id: &str) -> Option<&Record> {
        self.records.get(sandbox_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Gives a sandbox one address of each range, or the addresses it has.
    pub(crate) fn assign(&mut self, pod: &PodNetworkConfig, ranges: &[Cidr]) -> Result<Record> {
        let path = self.path(&pod.sandbox_id)?;
        let known = self.records.get(&pod.sandbox_id);
        let known = known.filter(|r| r.ips.len() == ranges.len() && ranges.iter().zip(&r.ips).all(|(c, ip)| c.contains(*ip)));
        let ips = match known {
            Some(record) => record.ips.clone(),
            None => self.free_in(ranges)?,
        };
        let record = Record {
            sandbox_id: pod.sandbox_id.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            ips,
            host_ports: pod.host_ports.clone(),
        };
        if self.records.get(&pod.sandbox_id) != Some(&record) {
            write(&path, &record).doing(|| format!("write {}", path.display()))?;
            self.records.insert(pod.sandbox_id.clone(), record.clone());
        }
        Ok(record)
    }

    /// Takes a sandbox' addresses back.
    pub(crate) fn release(&mut self, sandbox_id: &str) -> Result<Option<Record>> {
        let path = self.path(sandbox_id)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).doing(|| format!("remove {}", path.display()))?,
            _ => Ok(self.records.remove(sandbox_id)),
        }
    }

    fn free_in(&mut self, ranges: &[Cidr]) -> Result<PodIps> {
        let used: HashSet<IpAddr> = self.records.values().flat_map(|r| r.ips.iter().copied()).collect();
        ranges
            .iter()
            .map(|range| {
                // The first is the network's, the second the gateway's, the last of IPv4 is for broadcast.
                let first = 2_u128;
                let last = range.last_offset().saturating_sub(u128::from(range.is_ipv4()));
                let count = (last + 1).saturating_sub(first);
                let start = self.cursor.get(range).copied().unwrap_or(0);
                // One more than is used is always enough.
                let found = (0..count.min(used.len() as u128 + 1))
                    .map(|step| (start + step) % count)
                    .find(|offset| range.nth(first + offset).is_some_and(|ip| !used.contains(&ip)))
                    .ok_or_else(|| Error::Exhausted(range.to_string()))?;
                self.cursor.insert(*range, found + 1);
                range.nth(first + found).ok_or_else(|| Error::Exhausted(range.to_string()))
            })
            .collect()
    }

    fn path(&self, sandbox_id: &str) -> Result<PathBuf> {
        let plain = !sandbox_id.is_empty() && sandbox_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !plain || sandbox_id.len() > 200 {
            return Err(Error::Invalid(format!("{sandbox_id:?} can't be the ID of a sandbox")));
        }
        Ok(self.dir.join(format!("{sandbox_id}.json")))
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    drop(file);
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str) -> PodNetworkConfig {
        PodNetworkConfig { sandbox_id: id.into(), ..PodNetworkConfig::default() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_unique_and_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ["10.42.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let mut addresses = Addresses::load(dir.path()).unwrap();
        assert_eq!(addresses.assign(&pod("a"), &ranges).unwrap().ips, [ip("10.42.0.2"), ip("fd00::2")]);
        assert_eq!(addresses.assign(&pod("b"), &ranges).unwrap().ips[0], ip("10.42.0.3"));
        assert_eq!(addresses.assign(&pod("a"), &ranges).unwrap().ips[0], ip("10.42.0.2"));
        addresses.release("a").unwrap();
        addresses.release("a").unwrap();
        assert_eq!(addresses.assign(&pod("c"), &ranges).unwrap().ips[0], ip("10.42.0.4"), "a freed address rests");

        let mut addresses = Addresses::load(dir.path()).unwrap();
        assert_eq!(addresses.get("b").unwrap().ips[0], ip("10.42.0.3"));
        for id in ["d", "e", "f"] {
            addresses.assign(&pod(id), &ranges).unwrap();
        }
        let full = addresses.assign(&pod("g"), &ranges).unwrap_err();
        assert_eq!(full.to_string(), "no addresses available in range 10.42.0.0/29");
        addresses.release("d").unwrap();
        addresses.assign(&pod("g"), &ranges).unwrap();
    }

    #[test]
    fn an_id_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::load(dir.path()).unwrap();
        assert!(addresses.assign(&pod("../x"), &["10.42.0.0/29".parse().unwrap()]).is_err());
    }
}
