use super::*;
use crate::types::{LinuxContainerConfig, LinuxContainerSecurityContext, Mount};

fn around<'a>() -> Surroundings<'a> {
    Surroundings {
        rootfs: Path::new("/rootfs"),
        cgroup: "/pods/a/b",
        sandbox_pid: 7,
        netns: Some(Path::new("/netns/a")),
        hostname: "web-0",
        target_pid: None,
        sandbox_dir: Path::new("/nowhere"),
        unified: false,
    }
}

fn built(config: &ContainerConfig, image: &ImageConfig) -> Result<Value> {
    build(config, image, &LinuxContainerUser::default(), &around())
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|one| (*one).to_owned()).collect()
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd() {
    let image = ImageConfig { entrypoint: strings(&["e"]), cmd: strings(&["c"]), ..ImageConfig::default() };
    let check = |command: &[&str], arguments: &[&str], expect: &[&str]| {
        let config = ContainerConfig { command: strings(command), args: strings(arguments), ..ContainerConfig::default() };
        assert_eq!(args(&config, &image).unwrap(), expect);
    };
    check(&[], &[], &["e", "c"]);
    check(&[], &["a"], &["e", "a"]);
    check(&["x"], &[], &["x"]);
    check(&["x"], &["a"], &["x", "a"]);
    let none = args(&ContainerConfig::default(), &ImageConfig::default()).unwrap_err();
    assert_eq!(none.to_string(), "no command specified");
}

#[test]
fn environment_of_pod_wins_over_image() {
    let image = ImageConfig { env: strings(&["PATH=/x", "A=1"]), ..ImageConfig::default() };
    let config = ContainerConfig { envs: vec![("A".to_owned(), "2=3".to_owned())], ..ContainerConfig::default() };
    assert_eq!(env(&config, &image, "h"), ["PATH=/x", "HOSTNAME=h", "A=2=3"]);
}

#[test]
fn capabilities_add_and_drop() {
    let check = |add: &[&str], drop: &[&str], privileged: bool, expect: &dyn Fn(&[String]) -> bool| {
        let wish = Capability { add_capabilities: strings(add), drop_capabilities: strings(drop) };
        let got = capabilities(&wish, privileged).unwrap();
        assert!(expect(&got), "{add:?} {drop:?} gave {got:?}");
    };
    check(&[], &[], false, &|got| got.len() == DEFAULT_CAPABILITIES.len());
    check(&["NET_ADMIN"], &["ALL"], false, &|got| got == ["CAP_NET_ADMIN"]);
    check(&["ALL"], &["CAP_KILL"], false, &|got| got.len() > 30 && !got.contains(&"CAP_KILL".to_owned()));
    check(&[], &["kill"], true, &|got| got.contains(&"CAP_SYS_ADMIN".to_owned()));
    assert!(capabilities(&Capability { add_capabilities: strings(&["NOPE"]), ..Capability::default() }, false).is_err());
}

#[test]
fn namespaces_follow_the_sandbox() {
    let kinds = |config: &ContainerConfig| {
        let spec = namespaces(config, &around()).unwrap();
        let list = spec.as_array().unwrap().clone();
        list.iter()
            .map(|one| format!("{}{}", one["type"].as_str().unwrap(), one["path"].as_str().unwrap_or("")))
            .collect::<Vec<_>>()
    };
    let mut config = ContainerConfig::default();
    assert_eq!(kinds(&config), ["mount", "pid", "network/netns/a", "uts/proc/7/ns/uts", "ipc/proc/7/ns/ipc"]);
    config.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    config.linux.security_context.namespace_options.ipc = NamespaceMode::Node;
    assert_eq!(kinds(&config), ["mount", "pid/proc/7/ns/pid", "network/netns/a", "uts/proc/7/ns/uts"]);
    config.linux.security_context.namespace_options.pid = NamespaceMode::Target;
    assert!(matches!(namespaces(&config, &around()), Err(Error::FailedPrecondition(_))));
}

#[test]
fn mounts_of_the_pod_replace_defaults_and_come_parents_first() {
    let mount = |path: &str| Mount { container_path: path.into(), host_path: "/tmp".into(), ..Mount::default() };
    let config = ContainerConfig { mounts: vec![mount("/a/b"), mount("/dev/mqueue"), mount("/a")], ..ContainerConfig::default() };
    let value = mounts(&config, &around()).unwrap();
    let paths: Vec<&str> = value.as_array().unwrap().iter().map(|one| one["destination"].as_str().unwrap()).collect();
    // On cgroup v1 there is a mount for each hierarchy.
    let paths: Vec<&str> = paths.into_iter().filter(|path| !path.starts_with("/sys/fs/cgroup/")).collect();
    assert_eq!(paths, ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/a", "/a/b", "/dev/mqueue"]);
    let gone = Mount { host_path: "/does/not/exist".into(), ..mount("/a") };
    assert!(mounts(&ContainerConfig { mounts: vec![gone], ..ContainerConfig::default() }, &around()).is_err());
    let rro = Mount { recursive_read_only: true, ..mount("/a") };
    assert!(mounts(&ContainerConfig { mounts: vec![rro], ..ContainerConfig::default() }, &around()).is_err());
}

#[test]
fn the_specification_is_one_libcontainer_reads() {
    let image = ImageConfig { cmd: strings(&["sh"]), ..ImageConfig::default() };
    let security = LinuxContainerSecurityContext { seccomp: SecurityProfile::RuntimeDefault, ..Default::default() };
    let config = ContainerConfig {
        linux: LinuxContainerConfig { security_context: security, ..Default::default() },
        ..ContainerConfig::default()
    };
    let spec = built(&config, &image).unwrap();
    let parsed: libcontainer::oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
    let process = parsed.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), None);
    assert!(process.capabilities().as_ref().unwrap().ambient().is_none());
    assert!(parsed.linux().as_ref().unwrap().seccomp().is_some());
}

#[test]
fn seccomp_depends_on_capabilities() {
    let allowed = |capabilities: &[&str], name: &str| {
        let profile = seccomp(&SecurityProfile::RuntimeDefault, false, &strings(capabilities)).unwrap().unwrap();
        let rules = profile["syscalls"].as_array().unwrap().clone();
        rules.iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule["args"].is_null()
                && rule["names"].as_array().unwrap().iter().any(|one| one == name)
        })
    };
    assert!(allowed(&[], "read") && allowed(&[], "execve") && allowed(&[], "futex"));
    assert!(!allowed(&[], "mount") && !allowed(&[], "unshare") && !allowed(&[], "clone3"));
    assert!(allowed(&["CAP_SYS_ADMIN"], "mount") && allowed(&["CAP_SYS_ADMIN"], "clone3"));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let mut config = ContainerConfig { command: strings(&["x"]), ..ContainerConfig::default() };
    config.linux.security_context.seccomp = SecurityProfile::Localhost("/does/not/exist".to_owned());
    assert!(matches!(built(&config, &ImageConfig::default()), Err(Error::InvalidArgument(_))));
}
