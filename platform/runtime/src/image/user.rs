//! Who a container runs as: the image's user or the pod's, looked up in the image's `/etc/passwd` and `/etc/group`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::types::{LinuxContainerSecurityContext, LinuxContainerUser, SupplementalGroupsPolicy};

/// The most that is read of an image's passwd or group file.
const LIMIT_BYTES: u64 = 4 << 20;

/// Resolves the user of a container over its root file system.
///
/// # Errors
/// [`Error::InvalidArgument`] when a name is not in the image, or a group is given without a user.
pub(crate) fn resolve(rootfs: &Path, image_user: &str, context: &LinuxContainerSecurityContext) -> Result<LinuxContainerUser> {
    let passwd = read(rootfs, "etc/passwd")?;
    let group = read(rootfs, "etc/group")?;
    resolve_in(&passwd, &group, image_user, context)
}

/// Resolves the user of a container from the text of both files.
pub(crate) fn resolve_in(
    passwd: &str,
    group: &str,
    image_user: &str,
    context: &LinuxContainerSecurityContext,
) -> Result<LinuxContainerUser> {
    let (user, image_group) = match (context.run_as_user, context.run_as_username.as_str()) {
        (Some(uid), _) => (uid.to_string(), None),
        (None, "") => match image_user.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group)),
            None => (image_user.to_owned(), None),
        },
        (None, name) => (name.to_owned(), None),
    };
    if context.run_as_group.is_some() && context.run_as_user.is_none() && context.run_as_username.is_empty() && user.is_empty() {
        return Err(Error::InvalidArgument("runAsGroup needs a runAsUser or an image with a user".to_owned()));
    }
    let user = if user.is_empty() { "0".to_owned() } else { user };
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let entry = passwd.lines().map(fields).find(|f| f.len() > 3 && (f[0] == user || f[2] == user));
    let uid: i64 = match (&entry, user.parse()) {
        (_, Ok(uid)) => uid,
        (Some(entry), _) => entry[2].parse().map_err(|_| Error::InvalidArgument(format!("user {user} has a bad uid")))?,
        (None, Err(_)) => {
            return Err(Error::InvalidArgument(format!("unable to find user {user}: no matching entries in passwd file")));
        }
    };
    let gid: i64 = match (context.run_as_group, image_group) {
        (Some(gid), _) => gid,
        (None, Some(name)) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => {
                group.lines().map(fields).find(|f| f.len() > 2 && f[0] == name).and_then(|f| f[2].parse().ok()).ok_or_else(
                    || Error::InvalidArgument(format!("unable to find group {name}: no matching entries in group file")),
                )?
            }
        },
        (None, None) => entry.as_ref().and_then(|entry| entry[3].parse().ok()).unwrap_or(0),
    };
    let mut groups = vec![gid];
    if context.supplemental_groups_policy == SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        let member = |line: &&str| line.split(':').nth(3).is_some_and(|users| users.split(',').any(|one| one == entry[0]));
        groups.extend(group.lines().filter(member).filter_map(|line| line.split(':').nth(2)?.parse::<i64>().ok()));
    }
    groups.extend(&context.supplemental_groups);
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    for id in groups.iter().chain([&uid]) {
        if u32::try_from(*id).is_err() {
            return Err(Error::InvalidArgument(format!("user or group ID {id} is out of range")));
        }
    }
    Ok(LinuxContainerUser { uid, gid, supplemental_groups: groups })
}

/// Reads a file of an image without leaving its root through links; empty when absent.
fn read(root: &Path, path: &str) -> Result<String> {
    let Some(path) = inside(root, Path::new(path)) else { return Ok(String::new()) };
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(&path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file.context(|| format!("open {}", path.display()))?,
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES).read_to_end(&mut bytes).context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Resolves a path below a root as if the root were `/`; `None` for a loop of links.
pub(crate) fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut todo: Vec<std::ffi::OsString> = Vec::new();
    let push = |todo: &mut Vec<_>, path: &Path| {
        todo.extend(path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        }));
    };
    push(&mut todo, path);
    let mut at = root.to_path_buf();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            if at != root {
                at.pop();
            }
            continue;
        }
        let next = at.join(&part);
        match fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > 40 {
                    return None;
                }
                if target.is_absolute() {
                    at = root.to_path_buf();
                }
                push(&mut todo, &target);
            }
            Err(_) => at = next,
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:web,other\n";

    fn check(image_user: &str, context: LinuxContainerSecurityContext, expect: &str) {
        let got = match resolve_in(PASSWD, GROUP, image_user, &context) {
            Ok(user) => format!("{}:{} {:?}", user.uid, user.gid, user.supplemental_groups),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn users_are_looked_up() {
        let none = LinuxContainerSecurityContext::default;
        check("", none(), "0:0 [0]");
        check("web", none(), "101:102 [102, 7]");
        check("101", none(), "101:102 [102, 7]");
        check("web:logs", none(), "101:7 [7]");
        check("5:6", none(), "5:6 [6]");
        check("nobody", none(), "unable to find user nobody: no matching entries in passwd file");
        check("web", LinuxContainerSecurityContext { run_as_user: Some(9), ..none() }, "9:0 [0]");
        check("web", LinuxContainerSecurityContext { run_as_group: Some(9), ..none() }, "101:9 [9, 7]");
        let groups = LinuxContainerSecurityContext { supplemental_groups: vec![7, 8], ..none() };
        check("web", groups.clone(), "101:102 [102, 7, 8]");
        let strict = LinuxContainerSecurityContext { supplemental_groups_policy: SupplementalGroupsPolicy::Strict, ..groups };
        check("web", strict, "101:102 [102, 7, 8]");
        check(
            "",
            LinuxContainerSecurityContext { run_as_group: Some(9), ..none() },
            "runAsGroup needs a runAsUser or an image with a user",
        );
        check("", LinuxContainerSecurityContext { run_as_user: Some(-1), ..none() }, "user or group ID -1 is out of range");
    }
}
