//! Health checks with upstream's names, paths and texts (`/livez`, `/readyz`, `/healthz`, `?verbose`, `?exclude=`).
//!
//! Follows `k8s.io/apiserver/pkg/server/healthz`.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use parking_lot::RwLock;

/// Which endpoint asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Should the process be restarted?
    Livez,
    /// Should it get traffic?
    Readyz,
    /// The older name for all checks together.
    Healthz,
}

impl Endpoint {
    /// The path's last word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Healthz => "healthz",
        }
    }
}

type Probe = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

struct Check {
    name: String,
    live: bool,
    probe: Probe,
}

/// The checks of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health(Arc<RwLock<Vec<Check>>>);

impl Health {
    /// Adds a check to `/readyz` and `/healthz`, and to `/livez` too if `live`. `probe` must not block.
    pub fn add(&self, name: impl Into<String>, live: bool, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let name = name.into();
        let mut checks = self.0.write();
        checks.retain(|c| c.name != name);
        checks.push(Check { name, live, probe: Arc::new(probe) });
    }

    /// Runs the checks of an endpoint, or one of them. `None`: no check of that name.
    ///
    /// The answer is whether all passed and the text to send: `ok` alone, or a line a check if `verbose` or one failed. One
    /// check alone answers `ok` or its reason, and nothing is excluded from it.
    #[must_use]
    pub fn report(
        &self,
        endpoint: Endpoint,
        one: Option<&str>,
        verbose: bool,
        exclude: &BTreeSet<String>,
    ) -> Option<(bool, String)> {
        let ping: Probe = Arc::new(|| Ok(()));
        let mut checks = vec![("ping".to_owned(), ping)];
        let added = self.0.read();
        checks.extend(added.iter().filter(|c| endpoint != Endpoint::Livez || c.live).map(|c| (c.name.clone(), c.probe.clone())));
        drop(added);
        if let Some(one) = one {
            let (_, probe) = checks.into_iter().find(|(name, _)| name == one)?;
            return Some(match probe() {
                Ok(()) => (true, "ok".to_owned()),
                Err(reason) => (false, format!("internal server error: {reason}\n")),
            });
        }
        let mut unknown: BTreeSet<&str> = exclude.iter().map(String::as_str).collect();
        let (mut text, mut passed) = (String::new(), true);
        for (name, probe) in &checks {
            if unknown.remove(name.as_str()) {
                let _ = writeln!(text, "[+]{name} excluded: ok");
                continue;
            }
            match probe() {
                Ok(()) => {
                    let _ = writeln!(text, "[+]{name} ok");
                }
                // The reason is for the log: an unauthenticated client may read this text.
                Err(reason) => {
                    passed = false;
                    tracing::debug!(check = name, error = reason, "health check failed");
                    let _ = writeln!(text, "[-]{name} failed: reason withheld");
                }
            }
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.into_iter().map(|name| format!("{name:?}")).collect();
            let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {}", names.join(","));
        }
        if passed && !verbose {
            return Some((true, "ok".to_owned()));
        }
        let verdict = if passed { "passed" } else { "failed" };
        let _ = writeln!(text, "{} check {verdict}", endpoint.name());
        Some((passed, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(health: &Health, endpoint: Endpoint, one: Option<&str>, verbose: bool) -> Option<(bool, String)> {
        health.report(endpoint, one, verbose, &BTreeSet::new())
    }

    #[test]
    fn texts_are_upstreams() {
        let health = Health::default();
        health.add("store", true, || Ok(()));
        health.add("component/dns", false, || Err("not ready".to_owned()));
        assert_eq!(report(&health, Endpoint::Livez, None, false), Some((true, "ok".into())));
        assert_eq!(
            report(&health, Endpoint::Livez, None, true),
            Some((true, "[+]ping ok\n[+]store ok\nlivez check passed\n".into()))
        );
        assert_eq!(
            report(&health, Endpoint::Readyz, None, false),
            Some((false, "[+]ping ok\n[+]store ok\n[-]component/dns failed: reason withheld\nreadyz check failed\n".into()))
        );
        assert_eq!(report(&health, Endpoint::Readyz, Some("store"), false), Some((true, "ok".into())));
        assert_eq!(report(&health, Endpoint::Readyz, Some("nothing"), false), None);
        let excluded = BTreeSet::from(["component/dns".to_owned()]);
        assert_eq!(health.report(Endpoint::Readyz, None, false, &excluded), Some((true, "ok".into())));
        assert_eq!(
            report(&health, Endpoint::Readyz, Some("component/dns"), false),
            Some((false, "internal server error: not ready\n".into()))
        );
        assert_eq!(report(&health, Endpoint::Readyz, Some("ping"), true), Some((true, "ok".into())));
        assert_eq!(report(&health, Endpoint::Livez, Some("component/dns"), false), None);
    }

    #[test]
    fn checks_are_excluded_by_name() {
        let health = Health::default();
        health.add("etcd", true, || Ok(()));
        for (exclude, wanted) in [
            (&["ping"][..], "[+]ping excluded: ok\n[+]etcd ok\n"),
            (&["etcd"][..], "[+]ping ok\n[+]etcd excluded: ok\n"),
            (
                &["z", "ping", "a"][..],
                "[+]ping excluded: ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"a\",\"z\"\n",
            ),
        ] {
            let exclude: BTreeSet<String> = exclude.iter().map(|&name| name.to_owned()).collect();
            let text = format!("{wanted}livez check passed\n");
            assert_eq!(health.report(Endpoint::Livez, None, true, &exclude), Some((true, text)));
            assert_eq!(health.report(Endpoint::Livez, None, false, &exclude), Some((true, "ok".into())));
        }
    }
}
