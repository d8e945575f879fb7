//! Semantic versions; `staging/src/k8s.io/apiserver/pkg/cel/library/semverlib.go`.

use std::{cmp::Ordering, fmt};

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) patch: u64,
    pre: Vec<Part>,
    build: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl Semver {
    /// A version, strictly as [semver.org](https://semver.org) wants it.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let numbers: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = numbers[..] else { return Err("No Major.Minor.Patch elements found".to_owned()) };
        let number = |text: &str, what: &str| {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Invalid character(s) found in {what} number {text:?}"));
            }
            if text.len() > 1 && text.starts_with('0') {
                return Err(format!("{what} number must not contain leading zeroes {text:?}"));
            }
            text.parse().map_err(|_| format!("{what} number {text:?} is too large"))
        };
        let word = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let mut parts = Vec::new();
        for part in pre.into_iter().flat_map(|pre| pre.split('.')) {
            if !word(&part) {
                return Err(format!("Invalid character(s) found in prerelease {part:?}"));
            }
            if part.bytes().all(|b| b.is_ascii_digit()) {
                if part.len() > 1 && part.starts_with('0') {
                    return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
                }
                parts.push(Part::Number(part.parse().map_err(|_| format!("{part:?} is too large"))?));
            } else {
                parts.push(Part::Text(part.to_owned()));
            }
        }
        let build: Vec<&str> = build.into_iter().flat_map(|build| build.split('.')).collect();
        if let Some(part) = build.iter().find(|part| !word(part)) {
            return Err(format!("Invalid character(s) found in build meta data {part:?}"));
        }
        Ok(Self {
            major: number(major, "Major")?,
            minor: number(minor, "Minor")?,
            patch: number(patch, "Patch")?,
            pre: parts,
            build: build.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The same of what people write: `v1.2`, `01.02`.
    pub(crate) fn normalize(text: &str) -> String {
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(['+', '-']).unwrap_or(text.len());
        let (core, rest) = text.split_at(end);
        let mut parts: Vec<String> = core
            .split('.')
            .map(|part| {
                let short = part.trim_start_matches('0');
                if short.is_empty() && !part.is_empty() { "0".to_owned() } else { short.to_owned() }
            })
            .collect();
        while parts.len() < 3 {
            parts.push("0".to_owned());
        }
        format!("{}{rest}", parts.join("."))
    }

    /// Precedence; build metadata does not count.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let core = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        core.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        for (at, part) in self.pre.iter().enumerate() {
            f.write_str(if at == 0 { "-" } else { "." })?;
            match part {
                Part::Number(number) => write!(f, "{number}")?,
                Part::Text(text) => f.write_str(text)?,
            }
        }
        for (at, part) in self.build.iter().enumerate() {
            write!(f, "{}{part}", if at == 0 { "+" } else { "." })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        let ascending = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1+build"];
        for pair in ascending.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|text| Semver::parse(text).expect(text));
            assert_eq!(a.compare(&b), Ordering::Less, "{pair:?}");
        }
        for text in ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.x"] {
            assert!(Semver::parse(text).is_err(), "{text}");
        }
        assert_eq!(Semver::normalize("v01.2-rc"), "1.2.0-rc");
    }
}
